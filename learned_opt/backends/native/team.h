// Threads that take a tensor together.
#pragma once

#include <cstdint>

struct Team {
    int rank, size;

    void meet() const {
        if (size > 1) {
#pragma omp barrier
        }
    }

    // The part of [0, count) that is this thread's.
    int64_t from(int64_t count) const { return count * rank / size; }
    int64_t to(int64_t count) const { return count * (rank + 1) / size; }
};

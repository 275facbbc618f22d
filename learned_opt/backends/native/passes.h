// The passes that a step makes over one tensor, each over a range of its elements.
#pragma once

#include "blocks.h"

constexpr int64_t TILE = 64 * BLOCK;

static inline int64_t tiles_of(const Job& job) { return (job.size() + TILE - 1) / TILE; }

// What a team of threads needs beside one tensor; all of them share it.
struct Workspace {
    double (*sums)[HEADS + 3];  // [tiles]: of each pass
    double *head_row, *row_sum;  // [tiles], [rows]: a tile's share in a row that began before it; the others
    double* column_sum;  // [threads, columns]
    float *row_root, *column_root;
    float* direction;
    float* iterates;  // of `Iterates`
};

static inline double summed(const Job& job, const Workspace& space, int which) {
    double sum = 0;
    for (int64_t tile = 0; tile < tiles_of(job); tile++) sum += space.sums[tile][which];
    return sum;
}

// Calls `use(offset in block, row, column, length)` for each stretch of a block that lies in one row.
template <class Use>
static inline void by_rows(const Job& job, int64_t begin, int count, Use use) {
    int64_t row = begin / job.columns, column = begin % job.columns;
    for (int done = 0; done < count;) {
        int length = int(std::min<int64_t>(count - done, job.columns - column));
        use(done, row, column, length);
        done += length, column += length;
        if (column == job.columns) row++, column = 0;
    }
}

template <class Use>
static inline void by_blocks(const Job& job, int64_t tile, Use use) {
    int64_t end = std::min(job.size(), (tile + 1) * TILE);
    for (int64_t begin = tile * TILE; begin < end; begin += BLOCK) use(begin, int(std::min<int64_t>(BLOCK, end - begin)));
}

// Sums of squares of gradient and parameter and of the second moment that is to come, also by rows and columns.
template <class Stored>
static void measure(const Job& job, const Coefficients& by, int64_t tile, double* column_sum, Workspace& space) {
    alignas(64) float grads[BLOCK], params[BLOCK], seconds[BLOCK];
    Vector grad_square{}, param_square{};
    double second_sum = 0, head = 0;
    const int64_t first_row = tile * TILE / job.columns;
    const bool headed = tile * TILE % job.columns != 0;
    by_blocks(job, tile, [&](int64_t begin, int count) {
        const float* grad = floats(job.grad, job.grad_type, job.sign, begin, count, grads);
        const float* param = floats(job.param, job.param_type, 1, begin, count, params);
        const Stored* from = static_cast<const Stored*>(job.memory) + SECOND * job.size() + begin;
        Stored padded[BLOCK];
        if (count < BLOCK) {
            std::fill(std::copy_n(from, count, padded), padded + BLOCK, Stored(0));
            from = padded;
        }
        for (int i = 0; i < BLOCK; i += LANES) {
            Vector g = load(grad + i), p = load(param + i);
            grad_square += g * g;
            param_square += p * p;
            store(seconds + i, larger(advanced_second(by, load(from + i), g), all(TINY)));
        }
        by_rows(job, begin, count, [&](int offset, int64_t row, int64_t column, int length) {
            float sum = 0;
            const float* second = seconds + offset;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < length; i++) sum += second[i];
            second_sum += sum;
            if (!job.matrix) return;
            (headed && row == first_row ? head : space.row_sum[row]) += sum;
            double* into = column_sum + column;
#pragma omp simd
            for (int i = 0; i < length; i++) into[i] += second[i];
        });
    });
    space.head_row[tile] = head;
    space.sums[tile][0] = total(grad_square);
    space.sums[tile][1] = total(param_square);
    space.sums[tile][2] = second_sum;
}

// Sum of squares of the gradient alone.
static void find_finite(const Job& job, int64_t tile, Workspace& space) {
    alignas(64) float grads[BLOCK];
    Vector squares[4] = {};
    by_blocks(job, tile, [&](int64_t begin, int count) {
        const float* grad = floats(job.grad, job.grad_type, job.sign, begin, count, grads);
        for (int i = 0; i < BLOCK; i += 4 * LANES)
            UNROLLED for (int j = 0; j < 4; j++) {
                Vector g = load(grad + i + j * LANES);
                squares[j] += g * g;
            }
    });
    space.sums[tile][0] = total(squares[0] + squares[1] + (squares[2] + squares[3]));
}

// Sums of squares of every head's ratio.
template <class Stored>
static void ratio_squares(const Job& job, const Rule& rule, const Coefficients& by, float floor, int64_t tile, double* sums) {
    alignas(64) float grads[BLOCK];
    Vector squares[HEADS] = {};
    by_blocks(job, tile, [&](int64_t begin, int count) {
        const float* grad = floats(job.grad, job.grad_type, job.sign, begin, count, grads);
        MemoryBlock<Stored> memory(job, begin, count);
        for (int i = 0; i < BLOCK; i += LANES) {
            Vector row[ROWS], next[ROWS], first[HEADS], odd[HEADS];
            UNROLLED for (int r = 0; r < ROWS; r++) row[r] = load(memory.rows + r * memory.stride + i);
            advance(by, load(grad + i), row, next);
            read(rule, next, first);
            ratios(first, reciprocal<FINE>(floored_root<FINE>(next[SECOND], floor)), odd);
            UNROLLED for (int head = 0; head < HEADS; head++) squares[head] += odd[head] * odd[head];
        }
    });
    for (int head = 0; head < HEADS; head++) sums[head] = total(squares[head]);
}

// The root of the row-and-column estimate for a block of a matrix.
static inline void factored_roots(const Job& job, const Workspace& space, float floor, int64_t begin, int count, float* roots) {
    by_rows(job, begin, count, [&](int offset, int64_t row, int64_t column, int length) {
        const float across = space.row_root[row], *down = space.column_root + column;
        float* into = roots + offset;
#pragma omp simd
        for (int i = 0; i < length; i++) {
            float product = across * down[i];
            into[i] = (product > SQRT_TINY ? product : SQRT_TINY) + floor;
        }
    });
    for (int i = count; i < BLOCK; i++) roots[i] = 1;
}

// Give the directions of a stretch of elements their size, and move the parameters.
static inline void apply(const Job& job, float gain, int64_t begin, int64_t count, const float* direction) {
    const float rate = job.lr * gain;
    if (job.direction) {
        for (int64_t i = 0; i < count; i++) job.direction[begin + i] = gain * direction[i];
    } else if (job.param_type == FLOAT32) {
        float* param = static_cast<float*>(job.param) + begin;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) param[i] = param[i] * job.keep - rate * direction[i];
    } else if (job.param_type == BFLOAT16) {
        uint16_t* param = static_cast<uint16_t*>(job.param) + begin;
        for (int64_t i = 0; i < count; i++) {
            float kept = widened(narrowed(widened(param[i]) * job.keep));
            param[i] = narrowed(kept - rate * direction[i]);
        }
    } else {
        Float16* param = static_cast<Float16*>(job.param) + begin;
        for (int64_t i = 0; i < count; i++) {
            float kept = float(Float16(float(param[i]) * job.keep));
            param[i] = Float16(kept - rate * direction[i]);
        }
    }
}

// Advance the memory and find directions. Where the statistics are those of the step before, they are applied
// at once with `gain`; else they are written down. `sums` takes the squares of ratios and of directions and, where
// statistics are kept, the second moment and the squares of the parameters as they were.
template <class Stored>
static void directions(
    const Job& job, const Rule& rule, const Coefficients& by, const Statistics& of, const Noise& noise, float gain, int64_t tile,
    Workspace& space
) {
    alignas(64) float grads[BLOCK], params[BLOCK], roots[BLOCK], found[BLOCK];
    Vector squares[HEADS + 1] = {}, second_sum{}, param_square{};
    if (!job.matrix) std::fill_n(roots, BLOCK, of.factored_root);
    const bool moves_at_once = job.statistics && !job.direction && job.param_type == FLOAT32;
    const float rate = job.lr * gain;
    by_blocks(job, tile, [&](int64_t begin, int count) {
        const float* grad = floats(job.grad, job.grad_type, job.sign, begin, count, grads);
        const float* param = floats(job.param, job.param_type, 1, begin, count, params);
        if (job.matrix) factored_roots(job, space, of.floor, begin, count, roots);
        MemoryBlock<Stored> memory(job, begin, count);
        const bool at_once = moves_at_once && count == BLOCK;
        float* into = !job.statistics && count == BLOCK ? space.direction + begin : found;
        auto tell_at = [&](int i) __attribute__((always_inline)) {
            Vector row[ROWS], next[ROWS], g = load(grad + i);
            UNROLLED for (int r = 0; r < ROWS; r++) row[r] = load(memory.rows + r * memory.stride + i);
            advance(by, g, row, next);
            store_rows(memory.rows + i, memory.stride, next, begin + i, noise);
            Told told = tell<PRECISION<Stored>>(rule, of, g, load(param + i), load(roots + i), next);
            UNROLLED for (int head = 0; head < HEADS; head++) squares[head] += told.odd[head] * told.odd[head];
            if (job.statistics) {
                second_sum += larger(next[SECOND], all(TINY));
                param_square += told.param * told.param;
            }
            return told;
        };
        auto direct_at = [&](int i, const Told& told) __attribute__((always_inline)) {
            Vector direction = direct<PRECISION<Stored>>(rule, of, told);
            squares[HEADS] += direction * direction;
            if (at_once)
                store(static_cast<float*>(job.param) + begin + i, told.param * job.keep - rate * direction);
            else
                store(into + i, direction);
        };
        Told told = tell_at(0);
        for (int i = LANES; i < BLOCK; i += LANES) {
            if (OVERLAPPED) {
                Told after = tell_at(i);
                direct_at(i - LANES, told);
                told = after;
            } else {
                direct_at(i - LANES, told);
                told = tell_at(i);
            }
        }
        direct_at(BLOCK - LANES, told);
        memory.put_back();
        if (at_once) return;
        if (job.statistics)
            apply(job, gain, begin, count, found);
        else if (into == found)
            std::copy_n(found, count, space.direction + begin);
    });
    for (int i = 0; i <= HEADS; i++) space.sums[tile][i] = total(squares[i]);
    space.sums[tile][HEADS + 1] = total(second_sum);
    space.sums[tile][HEADS + 2] = total(param_square);
}

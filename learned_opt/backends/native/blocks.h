// Blocks of a tensor's elements, whatever they are stored in.
#pragma once

#include <algorithm>

#include "rule.h"

constexpr int BLOCK = 256;

// That of a step whose memory is so stored.
template <class Stored>
constexpr Precision PRECISION = sizeof(Stored) == 2 ? ROUGH : FINE;

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

// One tensor to be updated; learned_opt/backends/native/library.py has the same.
struct Job {
    void* param;
    const void* grad;
    void* memory;
    float *step, *skipped;
    float* statistics;  // of the step before, as learned_opt/rule.py has them; null where those of this step count
    float* direction;  // where its direction goes; null to move the parameter itself
    int64_t rows, columns;  // a vector or scalar is one row
    float sign, lr, keep;   // of the gradient; of the direction; of the parameter
    float total_steps;      // for a rule that goes by it
    float log_gain;         // as long as `statistics` tell of none
    float shape[2];         // what is told of the tensor's shape: learned_opt/tokens.py
    int32_t param_type, grad_type, matrix;
    int64_t orthogonal_rows;  // of a matrix whose direction is to be made orthogonal; else 0
    float spectral_size;      // of that: learned_opt/orthogonal.py

    int64_t size() const { return rows * columns; }
    int64_t short_side() const { return std::min(orthogonal_rows, size() / orthogonal_rows); }
    int64_t long_side() const { return size() / short_side(); }
};

#if defined(__FLT16_MAX__)
typedef _Float16 Float16;
#else
// For compilers without the type: its bits. Arithmetic on the way meets no denormal number.
struct Float16 {
    uint16_t bits;

    explicit Float16(float value) {  // to the nearest, ties to even
        uint32_t whole, size;
        memcpy(&whole, &value, 4);
        size = whole & 0x7fffffff;
        if (size >= 0x47800000) {  // 65536, infinite or not a number
            size = size > 0x7f800000 ? 0x7e00 : 0x7c00;
        } else if (size < 0x38800000) {  // denormal: the last bit of 1/2 counts as much as its own
            float shifted;
            memcpy(&shifted, &size, 4);
            shifted += 0.5f;
            memcpy(&size, &shifted, 4);
            size -= 0x3f000000;
        } else {
            size = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
        }
        bits = uint16_t(size | (whole >> 16 & 0x8000));
    }

    explicit operator float() const {
        uint32_t size = uint32_t(bits & 0x7fff) << 13, exponent = size & 0x0f800000;
        float value;
        size += exponent == 0x0f800000 ? 0x70000000 : exponent ? 0x38000000 : 0x38800000;
        memcpy(&value, &size, 4);
        if (!exponent) value -= 6.103515625e-5f;
        return bits & 0x8000 ? -value : value;
    }
};
#endif

// Elements from `begin` on as floats, zeros after the last; `buffer` holds them where they are not so stored.
static inline const float* floats(const void* from, int type, float sign, int64_t begin, int count, float* buffer) {
    const float* plain = static_cast<const float*>(from) + begin;
    if (type == FLOAT32 && count == BLOCK && sign > 0) return plain;
    const uint16_t* brief = static_cast<const uint16_t*>(from) + begin;
    const Float16* half = static_cast<const Float16*>(from) + begin;
    if (type == FLOAT32)
        for (int i = 0; i < count; i++) buffer[i] = plain[i];
    else if (type == BFLOAT16)
        for (int i = 0; i < count; i++) buffer[i] = widened(brief[i]);
    else
        for (int i = 0; i < count; i++) buffer[i] = float(half[i]);
    for (int i = 0; i < count; i++) buffer[i] *= sign;
    for (int i = count; i < BLOCK; i++) buffer[i] = 0;
    return buffer;
}

static inline Vector load(const uint16_t* from) {
    Halves value;
    memcpy(&value, from, sizeof value);
#if defined(__AVX512F__)
    return (Vector)((Bits)_mm512_cvtepu16_epi32((__m256i)value) << 16);
#else
    return (Vector)(__builtin_convertvector(value, Bits) << 16);
#endif
}

// A 32-bit mixing function: learned_opt/rounding.py.
static inline Bits mixed(Bits value) {
    value ^= value >> 16;
    value *= 0x7FEB352Du;
    value ^= value >> 15;
    value *= 0x846CA68Bu;
    return value ^ value >> 16;
}

// Where the random bits of rounding come from: the step, and the place of an element in the memory.
struct Noise {
    uint32_t seed;

    explicit Noise(float step) {
        uint32_t value = uint32_t(int64_t(step));
        value ^= value >> 16;
        value *= 0x7FEB352Du;
        value ^= value >> 15;
        value *= 0x846CA68Bu;
        seed = value ^ value >> 16;
    }
};

static inline Bits places(int64_t begin) {
    static constexpr uint32_t LANE[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Bits place;
    memcpy(&place, LANE, sizeof place);
    return place + uint32_t(begin);
}

// Random bits of an element, of which eight rows of its memory take 16 each, four bits apart.
static inline Bits random_word(Bits place, int group, const Noise& noise) {
    constexpr uint32_t groups = (ROWS + 7) / 8;
    return mixed((place * groups + uint32_t(group)) ^ noise.seed);
}

// A number of a row, to be cut to its upper half: what is random carries into that.
static inline Bits unrounded(Vector value, Bits word, int row) {
    const int shift = row % 4 * 4;
    const Bits turned = shift ? word >> shift | word << (32 - shift) : word;
    if (row == SECOND) value = smaller(value, all(LARGEST_BFLOAT16));  // all others are below its root
    return (Bits)value + (row % 8 < 4 ? turned & 0xffff : turned >> 16);
}

// Store the memory of some elements, `stride` between its rows.
static inline void store_rows(float* to, int64_t stride, const Vector* rows, int64_t, const Noise&) {
    UNROLLED for (int row = 0; row < ROWS; row++) store(to + row * stride, rows[row]);
}

static inline void store_rows(uint16_t* to, int64_t stride, const Vector* rows, int64_t begin, const Noise& noise) {
    Bits place = places(begin), word = place;
    UNROLLED for (int row = 0; row < ROWS; row++) {
        if (row % 8 == 0) word = random_word(place, row / 8, noise);
        store_upper_half(to + row * stride, unrounded(rows[row], word, row));
    }
}

// The memory of a block: in place, or in a padded copy where the tensor ends within the block.
template <class Stored>
struct MemoryBlock {
    Stored *rows, *home;
    int64_t stride, home_stride;
    int count;
    Stored copy[ROWS * BLOCK];

    MemoryBlock(const Job& job, int64_t begin, int count) : count(count) {
        home = static_cast<Stored*>(job.memory) + begin;
        home_stride = job.size();
        rows = home, stride = home_stride;
        if (count == BLOCK) return;
        rows = copy, stride = BLOCK;
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < BLOCK; i++) copy[row * BLOCK + i] = i < count ? home[row * home_stride + i] : Stored(0);
    }

    void put_back() const {
        if (rows == home) return;
        for (int row = 0; row < ROWS; row++) std::copy_n(copy + row * BLOCK, count, home + row * home_stride);
    }
};

// Vectors of floats as wide as the machine's, in the vector extensions that GCC and Clang share.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

constexpr float TINY = 1.17549435e-38f;
constexpr float SQRT_TINY = 1.08420217e-19f;
constexpr float LARGEST_BFLOAT16 = 3.3895313892515355e38f;

static inline Vector all(float value) { return value - Vector{}; }

static inline Vector load(const float* from) {
    Vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float* to, Vector value) { memcpy(to, &value, sizeof value); }

static inline Vector larger(Vector a, Vector b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

static inline Vector smaller(Vector a, Vector b) {
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX__)
    return _mm256_min_ps(a, b);
#else
    return a < b ? a : b;
#endif
}

static inline Vector rectified(Vector value) {
#if defined(__AVX512F__)
    return (Vector)_mm512_max_epi32((__m512i)value, __m512i{});  // in order as whole numbers are, and sooner done
#else
    return larger(value, Vector{});
#endif
}

static inline Vector clamp(Vector value, float bound) {
#if defined(__AVX512DQ__)
    return _mm512_range_ps(value, all(bound), 2);  // the lesser in size, with the sign of the first
#else
    return smaller(larger(value, all(-bound)), all(bound));
#endif
}

static inline Vector magnitude(Vector value) { return (Vector)((Integers)value & 0x7fffffff); }

// The size with the sign that the product of two others has.
static inline Vector signed_like(Vector size, Vector a, Vector b) {
    return (Vector)((Bits)size ^ (((Bits)a ^ (Bits)b) & 0x80000000u));
}

// How exact arithmetic is: to the last bits of a float, or as much as 8 bits of state are worth.
enum Precision { FINE, ROUGH };

// 1 / x for normal x up to 1e38, by the machine's estimate and, if fine, one Newton step: relative error below 2e-7,
// if rough 4e-4.
template <Precision PRECISION>
static inline Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
    Vector guess = _mm512_rcp14_ps(x);
#elif defined(__AVX__)
    Vector guess = _mm256_rcp_ps(x);
#else
    return 1.0f / x;
#endif
#if defined(__AVX__)
    return PRECISION == ROUGH ? guess : guess * (2.0f - x * guess);
#endif
}

// sqrt(x) for normal x, likewise.
template <Precision PRECISION>
static inline Vector root(Vector x) {
#if defined(__AVX512F__)
    Vector guess = _mm512_rsqrt14_ps(x);
    return PRECISION == ROUGH ? x * guess : x * (guess * (1.5f - 0.5f * x * guess * guess));
#elif defined(__AVX__)
    return _mm256_sqrt_ps(x);
#else
    Vector result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = __builtin_sqrtf(x[lane]);
    return result;
#endif
}

// What the softsign of a size lacks to 1.
template <Precision PRECISION>
static inline Vector shortfall(Vector size) { return reciprocal<PRECISION>(1.0f + size); }

template <Precision PRECISION>
static inline Vector softsign(Vector x) { return x * shortfall<PRECISION>(magnitude(x)); }

// log(x) for normal x, absolute error below 1e-7 (relative where large): Cephes' polynomial on [sqrt(1/2), sqrt(2)).
static inline Vector logarithm(Vector x) {
    Integers bits = (Integers)x - 0x3f3504f3;
    Integers exponent = bits >> 23;
    Vector m = (Vector)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    Vector power = __builtin_convertvector(exponent, Vector);
    Vector y = 7.0376836292e-2f * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    Vector square = m * m;
    return (y * m - 0.5f) * square + m + power * 0.693147180559945f;
}

static inline double total(Vector value) {
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += value[lane];
    return sum;
}

static inline float widened(uint16_t bfloat16) {
    uint32_t bits = uint32_t(bfloat16) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t narrowed(float value) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if defined(__AVX512BF16__)
constexpr bool PAIRS_OF_BFLOAT16 = true;
#else
constexpr bool PAIRS_OF_BFLOAT16 = false;
#endif
constexpr float KEPT = 1 - 0.00282f;  // of numbers of all sizes alike, on average, when they are cut to bfloat16

// Two vectors as pairs of bfloat16, cut, the first in the lower halves.
static inline Bits paired(Vector low, Vector high) { return (Bits)low >> 16 | ((Bits)high & 0xffff0000u); }

// Add the products of pairs with one pair of weights.
static inline Vector with_products(Vector sum, Bits pairs, const uint32_t& weights) {
#if defined(__AVX512BF16__)  // the compiler would load the weights by an instruction of their own
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(pairs), "m"(weights));
#endif
    return sum;
}

static inline void store_upper_half(uint16_t* to, Bits value) {
#if defined(__AVX512F__)
    Halves narrow = (Halves)_mm512_cvtepi32_epi16((__m512i)(value >> 16));
#else
    Halves narrow = __builtin_convertvector(value >> 16, Halves);
#endif
    memcpy(to, &narrow, sizeof narrow);
}

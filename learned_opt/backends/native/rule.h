// The update rule at one parameter: memory, tokens and head, as learned_opt/rule.py defines them.
#pragma once

#include <algorithm>
#include <cmath>

#include "vector.h"

// Sizes come from the compiler's command line: HEADS, AVERAGES, WAVES, MIXING, MIXED, HIDDEN, DIRECTIONS, PROGRESS, SHAPES; and, as
// 0 or 1, whether the head is told of the row-and-column estimate, FACTORED, and whether its hidden layer is RELU.
constexpr int ROWS = AVERAGES + 2 * WAVES + 1;
constexpr int SECOND = ROWS - 1;
constexpr int ODD = HEADS + 1 + FACTORED;
constexpr int EVEN = 2 * HEADS + 1 + FACTORED;
constexpr int OUTPUTS = ODD + DIRECTIONS;
constexpr bool OVERLAPPED = ROWS <= 4;  // there are registers for the next elements' tokens beside the head
constexpr float MAX_RATIO = 10.0f;
constexpr float MAX_LOG_GAIN = 2.0f;
constexpr double PI = 3.14159265358979323846;

#define UNROLLED _Pragma("GCC unroll 64")

constexpr int some(int count) { return count > 0 ? count : 1; }

enum Scale { NONE, RMS, ADAM };

// Of a layer, by input and output; and pairs of inputs' in bfloat16, the first in the lower half, larger by what
// inputs lose when they are cut.
template <int OUT, int IN>
struct Weights {
    static constexpr int PAIRS = (IN + 1) / 2;
    float plain[IN][OUT];
    uint32_t paired[PAIRS][OUT];

    void pair() {
        for (int i = 0; i < PAIRS * OUT; i++) {
            const int first = i / OUT * 2, out = i % OUT;
            const uint32_t second = first + 1 < IN ? narrowed(plain[first + 1][out] / KEPT) : 0;
            paired[first / 2][out] = narrowed(plain[first][out] / KEPT) | second << 16;
        }
    }
};

struct Rule {
    double average_rate[AVERAGES], second_rate, wave_rate[some(WAVES)], wave_frequency[some(WAVES)];
    float mixture[some(MIXING)][some(MIXED)];
    Weights<HIDDEN, EVEN> input_weight;
    float tensor_weight[HIDDEN][HEADS], progress_weight[HIDDEN][some(PROGRESS)];
    float shape_weight[HIDDEN][some(SHAPES)];
    float input_bias[HIDDEN];
    float direction_weight[DIRECTIONS][ODD];
    Weights<OUTPUTS, HIDDEN> output_weight;
    float output_bias[OUTPUTS];
    float rms_exponent[HEADS], vector_exponent[HEADS] = {}, shape_gain[some(SHAPES)] = {}, schedule[some(PROGRESS)];
    float epsilon;
    Scale scale;
    float tempering;
    const float* polynomials;  // three coefficients for each iteration that makes directions orthogonal
    int iterations;

    Rule(
        const double* rates, const float* weights, float epsilon, int scale, float tempering, const float* polynomials, int iterations
    )
        : epsilon(epsilon), scale(Scale(scale)), tempering(tempering), polynomials(polynomials), iterations(iterations) {
        for (double& rate : average_rate) rate = *rates++;
        second_rate = *rates++;
        for (int wave = 0; wave < WAVES; wave++) wave_rate[wave] = *rates++;
        for (int wave = 0; wave < WAVES; wave++) wave_frequency[wave] = *rates++;
        for (int head = 0; head < MIXING; head++)
            for (int row = 0; row < MIXED; row++) mixture[head][row] = *weights++;
        for (int unit = 0; unit < HIDDEN; unit++) {
            for (int i = 0; i < EVEN; i++) input_weight.plain[i][unit] = *weights++;
            for (float& weight : tensor_weight[unit]) weight = *weights++;
            for (int i = 0; i < PROGRESS; i++) progress_weight[unit][i] = *weights++;
            for (int i = 0; i < SHAPES; i++) shape_weight[unit][i] = *weights++;
        }
        for (float& bias : input_bias) bias = *weights++;
        for (auto& row : direction_weight)
            for (float& weight : row) weight = *weights++;
        for (int output = 0; output < OUTPUTS; output++)
            for (int unit = 0; unit < HIDDEN; unit++) output_weight.plain[unit][output] = *weights++;
        for (float& bias : output_bias) bias = *weights++;
        for (float& exponent : rms_exponent) exponent = *weights++;
        if (SHAPES) {
            for (float& exponent : vector_exponent) exponent = *weights++;
            for (float& gain : shape_gain) gain = *weights++;
        }
        for (int i = 0; i < PROGRESS; i++) schedule[i] = *weights++;
        take_shortfalls();
        for (int i = ODD; i < OUTPUTS; i++) {  // odd functions are twice their softsigns
            for (auto& row : output_weight.plain) row[i] *= 2;
            output_bias[i] *= 2;
        }
        input_weight.pair(), output_weight.pair();
    }

private:
    // Features that are sizes come as what they lack to 1.
    void take_shortfalls() {
        for (int i = 0; i < EVEN; i++) {
            if (i >= HEADS && i != 2 * HEADS) continue;
            for (int unit = 0; unit < HIDDEN; unit++) {
                input_bias[unit] += input_weight.plain[i][unit];
                input_weight.plain[i][unit] *= -1;
            }
        }
    }
};

// What one step multiplies a tensor's memory with.
struct Coefficients {
    float average[AVERAGES], second, wave[some(WAVES)], cosine[some(WAVES)], sine[some(WAVES)];

    Coefficients(const Rule& rule, double step) {
        auto gain = [step](double rate) { return std::expm1(-rate) / std::expm1(-rate * step); };
        for (int i = 0; i < AVERAGES; i++) average[i] = float(gain(rule.average_rate[i]));
        second = float(gain(rule.second_rate));
        for (int i = 0; i < WAVES; i++) {
            double angle = 2 * PI * rule.wave_frequency[i];
            double written = gain(rule.wave_rate[i]);
            wave[i] = float(written);
            cosine[i] = float((1 - written) * std::cos(angle));
            sine[i] = float((1 - written) * std::sin(angle));
        }
    }
};

// What a rule is told of the steps to come, and the gain that it makes of it: learned_opt/progress.py.
struct Progress {
    double told[some(PROGRESS)], gain = 1;

    Progress(const Rule& rule, double step, double total) {
        if (PROGRESS == 0) return;
        total = std::max(total, 1.0);
        const double done = std::min((step - 1) / total, 1.0), centred = 2 * done - 1;
        const double left = std::sqrt(std::max(1 - done, 1.1920929e-7));
        const double length = std::min(std::max(0.25 * std::log(total / 400), -1.0), 1.0);
        const double features[] = {centred, centred * centred, left, length};
        double log_gain = 0;
        for (int i = 0; i < PROGRESS; i++) told[i] = features[i], log_gain += rule.schedule[i] * told[i];
        log_gain = std::min<double>(std::max<double>(log_gain, -MAX_LOG_GAIN), MAX_LOG_GAIN);
        gain = 0.5 * (1 + std::cos(PI * done)) * std::exp(log_gain);
    }
};

// What the features of every parameter of a tensor are made with.
struct Statistics {
    float floor, inverse_size, factored_root;
    float bias[HIDDEN];
};

static inline Vector advanced_second(const Coefficients& by, Vector second, Vector grad) {
    return second + by.second * (grad * grad - second);
}

// Write a gradient into the memory of some parameters.
static inline void advance(const Coefficients& by, Vector grad, const Vector* row, Vector* next) {
    UNROLLED for (int i = 0; i < AVERAGES; i++) next[i] = row[i] + by.average[i] * (grad - row[i]);
    UNROLLED for (int i = 0; i < WAVES; i++) {
        Vector real = row[AVERAGES + i], imag = row[AVERAGES + WAVES + i];
        next[AVERAGES + i] = by.cosine[i] * real - by.sine[i] * imag + by.wave[i] * grad;
        next[AVERAGES + WAVES + i] = by.sine[i] * real + by.cosine[i] * imag;
    }
    next[SECOND] = advanced_second(by, row[SECOND], grad);
}

// Every head's average.
static inline void read(const Rule& rule, const Vector* row, Vector* first) {
    UNROLLED for (int head = 0; head < HEADS; head++) {
        first[head] = row[head];
        if (head >= MIXING) continue;
        UNROLLED for (int i = 0; i < MIXED; i++) first[head] += rule.mixture[head][i] * row[SECOND - MIXED + i];
    }
}

template <Precision PRECISION>
static inline Vector floored_root(Vector second, float floor) { return root<PRECISION>(larger(second, all(TINY))) + floor; }

// Every head's average over the root second moment.
static inline void ratios(const Vector* first, Vector inverse_root, Vector* odd) {
    UNROLLED for (int head = 0; head < HEADS; head++) odd[head] = clamp(first[head] * inverse_root, MAX_RATIO);
}

// Add what a layer makes of its inputs. Sums that do not wait for one another stand side by side.
template <Precision PRECISION, int OUT, int IN>
static inline void layer(const Weights<OUT, IN>& by, const Vector* input, Vector* sum) {
    if (PAIRS_OF_BFLOAT16 && PRECISION == ROUGH) {
        UNROLLED for (int pair = 0; pair < Weights<OUT, IN>::PAIRS; pair++) {
            Bits both = paired(input[2 * pair], 2 * pair + 1 < IN ? input[2 * pair + 1] : Vector{});
            UNROLLED for (int i = 0; i < OUT; i++) sum[i] = with_products(sum[i], both, by.paired[pair][i]);
        }
        return;
    }
    UNROLLED for (int j = 0; j < IN; j++)
        UNROLLED for (int i = 0; i < OUT; i++) sum[i] += by.plain[j][i] * input[j];
}

// What the head is told of some parameters: odd functions, every head's ratio first, and even ones.
struct Told {
    Vector param, odd[OUTPUTS], even[EVEN];
};

// Of parameters whose memory, advanced, is `row`.
template <Precision PRECISION>
static inline Told tell(const Rule& rule, const Statistics& of, Vector grad, Vector param, Vector factored_root, const Vector* row) {
    Told told;
    Vector first[HEADS], *odd = told.odd, *even = told.even;
    told.param = param;
    Vector own_root = floored_root<PRECISION>(row[SECOND], of.floor);
    Vector inverse_root = reciprocal<PRECISION>(own_root);
    read(rule, row, first);
    ratios(first, inverse_root, odd);
    odd[HEADS] = clamp(grad * inverse_root, MAX_RATIO);
    UNROLLED for (int head = 0; head < HEADS; head++) {
        Vector here = odd[head], there = odd[head == 0 ? HEADS : head - 1];
        even[head] = shortfall<PRECISION>(magnitude(here));
        even[HEADS + head] = signed_like(1.0f - shortfall<PRECISION>(magnitude(here) * magnitude(there)), here, there);
    }
    even[2 * HEADS] = shortfall<PRECISION>(magnitude(param) * of.inverse_size);
    if (FACTORED) {
        Vector inverse_factored = reciprocal<PRECISION>(factored_root);
        odd[ODD - 1] = clamp(first[0] * inverse_factored, MAX_RATIO);
        even[EVEN - 1] = softsign<PRECISION>(logarithm(own_root * inverse_factored));
    }

    Vector* learned = odd + ODD;
    UNROLLED for (int i = 0; i < DIRECTIONS; i++) learned[i] = rule.direction_weight[i][0] * odd[0];
    UNROLLED for (int j = 1; j < ODD; j++)
        UNROLLED for (int i = 0; i < DIRECTIONS; i++) learned[i] += rule.direction_weight[i][j] * odd[j];
    UNROLLED for (int i = 0; i < DIRECTIONS; i++) learned[i] = softsign<PRECISION>(learned[i]);
    return told;
}

// The direction of some parameters, before their tensor's gain.
template <Precision PRECISION>
static inline Vector direct(const Rule& rule, const Statistics& of, const Told& told) {
    const Vector *odd = told.odd, *even = told.even;
    Vector hidden[HIDDEN], weight[OUTPUTS];
    UNROLLED for (int unit = 0; unit < HIDDEN; unit++) hidden[unit] = all(of.bias[unit]);
    UNROLLED for (int i = 0; i < OUTPUTS; i++) weight[i] = all(rule.output_bias[i]);
    layer<PRECISION>(rule.input_weight, even, hidden);
    UNROLLED for (int unit = 0; unit < HIDDEN; unit++)
        hidden[unit] = RELU ? rectified(hidden[unit]) : softsign<PRECISION>(hidden[unit]);
    layer<PRECISION>(rule.output_weight, hidden, weight);
    Vector direction = odd[0], other = weight[0] * odd[0];
    UNROLLED for (int i = 1; i < OUTPUTS; i++) (i % 2 ? direction : other) += weight[i] * odd[i];
    return direction + other;
}

// Directions of matrices made orthogonal, as learned_opt/orthogonal.py defines it, where products are in float32.
#pragma once

#include "passes.h"
#include "team.h"

constexpr int TILE_ROWS = LANES == 16 ? 8 : 4;  // of a product: with its columns, what registers hold
constexpr int TILE_VECTORS = 3;
constexpr int TILE_COLUMNS = TILE_VECTORS * LANES;
constexpr int LONGEST_RUN = 3;       // iterations: five of Muon's are ten times less exact in a run than one by one
constexpr int64_t SIDE_OF_RUN = 32;  // at least: with few singular values, one of them nearly all, three are less exact too
constexpr int64_t LONG = 2;          // times the shorter side, from which a run needs fewer operations
constexpr int64_t TERMS = 128;  // of a sum at a time: what rounding does to long sums grows with their length

// A matrix, its rows `stride` apart: a multiple of the lanes, zeros after the last column.
struct Grid {
    float* at;
    int64_t rows, stride;

    float* row(int64_t i) const { return at + i * stride; }
};

// `summand` times `beta` and `alpha` times the sum over k of left(i, k) right(k, j), for one tile of (i, j).
template <int ROWS_OF_TILE, int VECTORS>
static inline void multiply_tile(
    const float* left, int64_t next_row, int64_t next_term, const Grid& right, float alpha, const Grid* summand, float beta,
    const Grid& out, int64_t row, int64_t column
) {
    Vector sum[ROWS_OF_TILE][VECTORS] = {};
    const float *from = left + row * next_row, *to = right.at + column;
    for (int64_t k = 0; k < right.rows; k++) {
        Vector term[VECTORS];
        UNROLLED for (int j = 0; j < VECTORS; j++) term[j] = load(to + j * LANES);
        UNROLLED for (int i = 0; i < ROWS_OF_TILE; i++)
            UNROLLED for (int j = 0; j < VECTORS; j++) sum[i][j] += from[i * next_row] * term[j];
        from += next_term, to += right.stride;
    }
    UNROLLED for (int i = 0; i < ROWS_OF_TILE; i++)
        UNROLLED for (int j = 0; j < VECTORS; j++) {
            Vector found = sum[i][j] * alpha;
            if (summand) found += load(summand->row(row + i) + column + j * LANES) * beta;
            store(out.row(row + i) + column + j * LANES, found);
        }
}

// Rows from `row` on, of which the last tile of a product may have fewer than others.
template <int ROWS_OF_TILE, int VECTORS>
static inline void multiply_rows(
    const float* left, int64_t next_row, int64_t next_term, const Grid& right, float alpha, const Grid* summand, float beta,
    const Grid& out, int64_t row, int64_t column, int64_t rows
) {
    for (; rows >= ROWS_OF_TILE; rows -= ROWS_OF_TILE, row += ROWS_OF_TILE)
        multiply_tile<ROWS_OF_TILE, VECTORS>(left, next_row, next_term, right, alpha, summand, beta, out, row, column);
    if constexpr (ROWS_OF_TILE > 1)
        multiply_rows<ROWS_OF_TILE / 2, VECTORS>(left, next_row, next_term, right, alpha, summand, beta, out, row, column, rows);
}

// A product by the team; of a symmetric one, tiles below the diagonal are mirrored.
static void multiply(
    const Team& team, const float* left, int64_t next_row, int64_t next_term, const Grid& right, float alpha, const Grid* summand,
    float beta, const Grid& out, bool symmetric
) {
    const int64_t down = (out.rows + TILE_ROWS - 1) / TILE_ROWS, across = (out.stride + TILE_COLUMNS - 1) / TILE_COLUMNS;
    for (int64_t tile = team.rank; tile < down * across; tile += team.size) {
        const int64_t row = tile % down * TILE_ROWS, column = tile / down * TILE_COLUMNS;
        if (symmetric && column + TILE_COLUMNS <= row) continue;
        const int64_t rows = std::min<int64_t>(TILE_ROWS, out.rows - row), columns = std::min<int64_t>(TILE_COLUMNS, out.stride - column);
        auto by = columns == LANES       ? multiply_rows<TILE_ROWS, 1>
                  : columns == 2 * LANES ? multiply_rows<TILE_ROWS, 2>
                                         : multiply_rows<TILE_ROWS, TILE_VECTORS>;
        for (int64_t k = 0; k < right.rows; k += TERMS) {
            const Grid part = {right.row(k), std::min(TERMS, right.rows - k), right.stride};
            const float* from = left + k * next_term;
            by(from, next_row, next_term, part, alpha, k ? &out : summand, k ? 1 : beta, out, row, column, rows);
        }
        if (!symmetric || column <= row) continue;
        for (int64_t j = column; j < std::min(column + columns, out.rows); j++)
            for (int64_t i = row; i < row + rows; i++) out.row(j)[i] = out.row(i)[j];
    }
    team.meet();
}

// exp(x) for x in [-87, 0], relative error below 2e-7: Cephes' polynomial.
static inline Vector exponential(Vector x) {
    Integers power = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, Integers);  // towards zero: to the nearest
    Vector whole = __builtin_convertvector(power, Vector);
    x = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector y = 1.9875691500e-4f * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    return (y * x * x + x + 1.0f) * (Vector)((power + 127) << 23);
}

// What the iterations need: the matrix stood tall, where it goes, and two squares of its shorter side.
struct Iterates {
    Grid here, there, gram, power;

    static int64_t stride_of(const Job& job) { return (job.short_side() + LANES - 1) / LANES * LANES; }

    static int64_t floats(const Job& job) {
        return job.orthogonal_rows ? 2 * (job.long_side() + job.short_side()) * stride_of(job) : 0;
    }

    Iterates(const Job& job, float* room) {
        const int64_t stride = stride_of(job), tall = job.long_side() * stride, square = job.short_side() * stride;
        here = {room, job.long_side(), stride};
        there = {room + tall, job.long_side(), stride};
        gram = {room + 2 * tall, job.short_side(), stride};
        power = {room + 2 * tall + square, job.short_side(), stride};
    }

    void advance(const Team& team, const float* polynomials, int iterations) {
        const int64_t side = gram.rows;
        if (iterations <= LONGEST_RUN && side >= SIDE_OF_RUN && here.rows >= LONG * side) return run(team, polynomials, iterations);
        for (const float* of = polynomials; of < polynomials + 3 * iterations; of += 3) {
            find_gram(team);
            find_power(team, of);
            multiply(team, here.at, here.stride, 1, power, 1, &here, of[0], there, false);
            std::swap(here, there);
        }
    }

private:
    // All iterations as one factor, which is their polynomial of the Gram matrix: two products of the long matrix in all.
    void run(const Team& team, const float* polynomials, int iterations) {
        Grid factor = gram, spare = power;
        gram = {there.at, factor.rows, factor.stride};
        power = {there.row(factor.rows), factor.rows, factor.stride};
        find_gram(team);
        find_power(team, polynomials);
        for (int64_t i = team.from(factor.rows); i < team.to(factor.rows); i++) {
            std::copy_n(power.row(i), factor.stride, factor.row(i));
            factor.row(i)[i] += polynomials[0];
        }
        team.meet();
        for (const float* of = polynomials + 3; of < polynomials + 3 * iterations; of += 3) {
            multiply(team, gram.at, 1, gram.stride, power, 1, &gram, of[-3], spare, true);
            multiply(team, spare.at, 1, spare.stride, power, 1, &spare, of[-3], gram, true);
            find_power(team, of);
            multiply(team, factor.at, 1, factor.stride, power, 1, &factor, of[0], spare, true);
            std::swap(factor, spare);
        }
        multiply(team, here.at, here.stride, 1, factor, 1, nullptr, 0, there, false);
        std::swap(here, there);
    }

    void find_gram(const Team& team) { multiply(team, here.at, 1, here.stride, here, 1, nullptr, 0, gram, true); }

    // What an iteration multiplies the matrix with, less its multiple of the identity.
    void find_power(const Team& team, const float* polynomial) {
        multiply(team, gram.at, 1, gram.stride, gram, polynomial[2], &gram, polynomial[1], power, true);
    }
};

// Weigh a block of a direction by a power of the second moment: `tempered` of learned_opt/orthogonal.py.
static inline void temper(float* direction, const float* second, float inverse_most, float power) {
    for (int i = 0; i < BLOCK; i += LANES) {
        Vector part = larger(load(second + i) * inverse_most, all(TINY));
        store(direction + i, load(direction + i) * exponential(logarithm(part) * power));
    }
}

// The second moment of a block, zeros after the last element.
template <class Stored>
static inline void second_moments(const Job& job, int64_t begin, int count, float* into) {
    const Stored* from = static_cast<const Stored*>(job.memory) + SECOND * job.size() + begin;
    for (int i = 0; i < count; i++) into[i] = sizeof(Stored) == 2 ? widened(uint16_t(from[i])) : float(from[i]);
    std::fill(into + count, into + BLOCK, 0.0f);
}

// Calls `use(i, j)` for rows [begin, end) and all columns, in squares: who reads rows and writes columns stays in cache.
template <class Use>
static inline void by_squares(int64_t begin, int64_t end, int64_t columns, Use use) {
    constexpr int64_t SIDE = 16;
    for (int64_t top = begin; top < end; top += SIDE)
        for (int64_t left = 0; left < columns; left += SIDE)
            for (int64_t i = top; i < std::min(end, top + SIDE); i++)
                for (int64_t j = left; j < std::min(columns, left + SIDE); j++) use(i, j);
}

// Make the direction in `space.direction` orthogonal, which has room for whole blocks, and move the parameter along it.
template <class Stored>
static void move_along_orthogonal(const Job& job, const Rule& rule, const Team& team, const Workspace& space) {
    alignas(64) float second[BLOCK];
    const int64_t tiles = tiles_of(job), from = team.from(tiles), to = team.to(tiles);
    const bool tempered = rule.tempering > 0;
    float* direction = space.direction;
    if (team.rank == 0) std::fill_n(direction + job.size(), (BLOCK - job.size() % BLOCK) % BLOCK, 0.0f);
    auto square_of = [&](int64_t begin, int count) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < begin + count; i++) sum += double(direction[i]) * direction[i];
        return sum;
    };
    for (int64_t tile = from; tile < to; tile++) {
        double square = 0;
        float most = TINY;
        by_blocks(job, tile, [&](int64_t begin, int count) {
            square += square_of(begin, count);
            if (!tempered) return;
            second_moments<Stored>(job, begin, count, second);
            for (int i = 0; i < BLOCK; i++) most = std::max(most, second[i]);
        });
        space.sums[tile][0] = space.sums[tile][2] = square;
        space.sums[tile][1] = most;
    }
    team.meet();
    const double norm = std::sqrt(summed(job, space, 0)) * job.spectral_size;
    if (tempered) {
        double most = 0;
        for (int64_t tile = 0; tile < tiles; tile++) most = std::max(most, space.sums[tile][1]);
        for (int64_t tile = from; tile < to; tile++) {
            double square = 0;
            by_blocks(job, tile, [&](int64_t begin, int count) {
                second_moments<Stored>(job, begin, count, second);
                temper(direction + begin, second, float(1 / most), rule.tempering);
                square += square_of(begin, count);
            });
            space.sums[tile][2] = square;
        }
        team.meet();
    }

    Iterates own(job, space.iterates);
    const int64_t rows = job.long_side(), columns = job.short_side(), begin = team.from(rows), end = team.to(rows);
    const bool tall = job.orthogonal_rows == rows;
    const int64_t next_row = tall ? columns : 1, next_column = tall ? 1 : rows;
    const double inverse = 1 / std::max(std::sqrt(summed(job, space, 2)), double(TINY));
    by_squares(begin, end, columns, [&](int64_t i, int64_t j) {
        own.here.row(i)[j] = float(direction[i * next_row + j * next_column] * inverse);
    });
    for (int64_t i = begin; i < end; i++) std::fill(own.here.row(i) + columns, own.here.row(i + 1), 0.0f);
    team.meet();
    own.advance(team, rule.polynomials, rule.iterations);
    by_squares(begin, end, columns, [&](int64_t i, int64_t j) { direction[i * next_row + j * next_column] = own.here.row(i)[j]; });
    team.meet();
    for (int64_t tile = from; tile < to; tile++) {
        space.sums[tile][0] = 0;
        by_blocks(job, tile, [&](int64_t begin, int count) { space.sums[tile][0] += square_of(begin, count); });
    }
    team.meet();
    const double gain = norm / std::max(std::sqrt(summed(job, space, 0)), double(TINY));
    for (int64_t tile = from; tile < to; tile++)
        by_blocks(job, tile, [&](int64_t begin, int count) { apply(job, float(gain), begin, count, direction + begin); });
    team.meet();
}

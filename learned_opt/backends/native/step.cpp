// One step of the update rule over many tensors, called from learned_opt/backends/native/library.py.
//
// A tensor takes four passes, since a size that is of the whole tensor stands between each and the next:
// measure, ratio_squares, directions, apply; two, measure or find_finite and directions, where those sizes are
// of the step before. Small tensors are taken by one thread each, in cache; large ones, and the few whose iterations
// are most of the work, by all threads together.
#include <memory>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "orthogonal.h"

constexpr int64_t LARGE = 1 << 16;
constexpr int64_t ELEMENT_ROWS = 8;      // of a shorter side, which cost as much in the iterations as all else does
constexpr int64_t LEAST_WORK = 1 << 14;  // of a thread, below which another costs more than it gives

// Owns a workspace that does for every job that it is grown for.
struct Room {
    std::unique_ptr<char[]> memory;
    int64_t tiles = 0, rows = 0, columns = 0, size = 0, iterates = 0;

    void grow(const Job& job, int threads) {
        tiles = std::max(tiles, tiles_of(job));
        if (job.matrix) rows = std::max(rows, job.rows), columns = std::max(columns, job.columns * threads);
        if (job.orthogonal_rows || !(job.direction || job.statistics)) size = std::max(size, (job.size() + BLOCK - 1) / BLOCK * BLOCK);
        iterates = std::max(iterates, Iterates::floats(job));
    }

    Workspace make() {
        const int64_t doubles = tiles * (HEADS + 3) + tiles + rows + columns;
        memory.reset(new char[doubles * sizeof(double) + (rows + columns + size + LANES + iterates) * sizeof(float)]);
        Workspace space;
        space.sums = reinterpret_cast<double(*)[HEADS + 3]>(memory.get());
        space.head_row = reinterpret_cast<double*>(space.sums + tiles);
        space.row_sum = space.head_row + tiles;
        space.column_sum = space.row_sum + rows;
        space.row_root = reinterpret_cast<float*>(space.column_sum + columns);
        space.column_root = space.row_root + rows;
        space.direction = space.column_root + columns;
        void* aligned = space.direction + size;
        size_t room = (LANES + iterates) * sizeof(float);
        space.iterates = static_cast<float*>(std::align(sizeof(Vector), iterates * sizeof(float), aligned, room));
        return space;
    }
};

// Roots of the row means and of the column means over the mean, whose product is the root of the estimate.
static void find_roots(const Job& job, double mean, const Team& team, Workspace& space) {
    for (int64_t row = team.from(job.rows); row < team.to(job.rows); row++) {
        double sum = space.row_sum[row];
        for (int64_t tile = row * job.columns / TILE + 1; tile * TILE < (row + 1) * job.columns; tile++)
            sum += space.head_row[tile];
        space.row_root[row] = float(std::sqrt(sum / job.columns));
    }
    for (int64_t column = team.from(job.columns); column < team.to(job.columns); column++) {
        double sum = 0;
        for (int rank = 0; rank < team.size; rank++) sum += space.column_sum[rank * job.columns + column];
        space.column_root[column] = float(std::sqrt(sum / job.rows / (mean + TINY)));
    }
}

// The gain that a direction asks for; 0 where the tensor does not move.
static double gain_of(const Job& job, const Rule& rule, double square, double adam_square, const double* log_rms) {
    if (!(adam_square > 0)) return 0;
    if (rule.scale == NONE) return 1;
    double inverse = 1 / std::sqrt(std::max(square, double(TINY)));
    if (rule.scale == RMS) return inverse;
    double log_gain = 0;
    for (int head = 0; head < HEADS; head++)
        log_gain += (rule.rms_exponent[head] + rule.vector_exponent[head] * job.shape[0]) * log_rms[head];
    for (int i = 0; i < SHAPES; i++) log_gain += rule.shape_gain[i] * job.shape[i];
    log_gain = std::min<double>(std::max<double>(log_gain, -MAX_LOG_GAIN), MAX_LOG_GAIN);
    return inverse * std::sqrt(std::max(adam_square, double(TINY))) * std::exp(log_gain);
}

static double root_of(double mean_square) { return std::sqrt(std::max(mean_square, double(TINY))); }

static Statistics statistics_of(
    const Job& job, const Rule& rule, const Progress& progress, float floor, double mean_second, double root_param, const double* log_rms
) {
    Statistics of;
    of.floor = floor;
    of.inverse_size = float(1 / root_param);
    of.factored_root = float(root_of(mean_second)) + floor;
    for (int unit = 0; unit < HIDDEN; unit++) {
        double bias = rule.input_bias[unit];
        for (int head = 0; head < HEADS; head++) bias += rule.tensor_weight[unit][head] * 0.5 * log_rms[head];
        for (int i = 0; i < PROGRESS; i++) bias += rule.progress_weight[unit][i] * progress.told[i];
        for (int i = 0; i < SHAPES; i++) bias += rule.shape_weight[unit][i] * job.shape[i];
        of.bias[unit] = float(bias);
    }
    return of;
}

// Whether the tensor moved: it does not where its gradient is not finite.
template <class Stored>
static bool step_tensor(const Job& job, const Rule& rule, const Team& team, Workspace space) {
    const int64_t tiles = tiles_of(job), from = team.from(tiles), to = team.to(tiles);
    const double size = double(job.size());
    const float step = *job.step + 1;
    const Coefficients by(rule, step);
    const Progress progress(rule, step, job.total_steps);
    if (job.direction) space.direction = job.direction;

    double* column_sum = space.column_sum + team.rank * job.columns;
    if (job.matrix) {
        std::fill_n(column_sum, job.columns, 0.0);
        std::fill(space.row_sum + team.from(job.rows), space.row_sum + team.to(job.rows), 0.0);
        team.meet();
    }
    const bool measured = FACTORED || !job.statistics;
    for (int64_t tile = from; tile < to; tile++) {
        if (measured)
            measure<Stored>(job, by, tile, column_sum, space);
        else
            find_finite(job, tile, space);
    }
    team.meet();
    if (!std::isfinite(float(summed(job, space, 0)))) {
        if (job.direction) std::fill(job.direction + team.from(job.size()), job.direction + team.to(job.size()), 0.0f);
        if (team.rank == 0) *job.skipped += 1;
        team.meet();
        return false;
    }
    const double mean_second = measured ? summed(job, space, 2) / size : 0;
    double root_second, root_param;
    if (job.statistics) {
        root_second = std::max(job.statistics[HEADS + 1], SQRT_TINY);
        root_param = std::max(job.statistics[HEADS + 2], SQRT_TINY);
    } else {
        root_second = root_of(mean_second);
        root_param = root_of(summed(job, space, 1) / size);
    }
    const float floor = float(rule.epsilon * root_second) + TINY;
    if (job.matrix) find_roots(job, mean_second, team, space);
    team.meet();

    double square[HEADS], log_rms[HEADS], gain = 1;
    auto find_ratios = [&] {
        for (int head = 0; head < HEADS; head++) {
            square[head] = summed(job, space, head) / size;
            log_rms[head] = std::max(0.5 * std::log(std::max(square[head], double(TINY))), -5.0);
        }
    };
    if (job.statistics) {
        std::copy_n(job.statistics, HEADS, log_rms);
        const float log_gain = job.statistics[HEADS + 1] > 0 ? job.statistics[HEADS] : job.log_gain;
        if (rule.scale != NONE) gain = std::exp(double(log_gain));
    } else {
        for (int64_t tile = from; tile < to; tile++)
            ratio_squares<Stored>(job, rule, by, floor, tile, space.sums[tile]);
        team.meet();
        find_ratios();
    }
    team.meet();

    const Statistics of = statistics_of(job, rule, progress, floor, mean_second, root_param, log_rms);
    const Noise noise(step);
    for (int64_t tile = from; tile < to; tile++)
        directions<Stored>(job, rule, by, of, noise, float(gain * progress.gain), tile, space);
    team.meet();
    find_ratios();
    gain = gain_of(job, rule, summed(job, space, HEADS) / size, square[0], log_rms);
    if (!job.statistics) {
        if (rule.scale == NONE) gain = 1;
        for (int64_t tile = from; tile < to; tile++) {
            const int64_t begin = tile * TILE;
            apply(job, float(gain * progress.gain), begin, std::min(TILE, job.size() - begin), space.direction + begin);
        }
    } else if (team.rank == 0 && gain > 0) {
        std::copy_n(log_rms, HEADS, job.statistics);
        job.statistics[HEADS] = float(std::min<double>(std::log(gain), MAX_LOG_GAIN));
        for (int i = HEADS + 1; i < HEADS + 3; i++) job.statistics[i] = float(root_of(summed(job, space, i) / size));
    }
    if (team.rank == 0) *job.step = step;
    team.meet();
    return true;
}

template <class Stored>
static bool step_and_shape(const Job& job, const Rule& rule, const Team& team, const Workspace& space) {
    if (!job.orthogonal_rows) return step_tensor<Stored>(job, rule, team, space);
    Job waiting = job;
    waiting.direction = space.direction;
    const bool moved = step_tensor<Stored>(waiting, rule, team, space);
    if (moved) move_along_orthogonal<Stored>(job, rule, team, space);
    return moved;
}

// In elements that have nothing made orthogonal.
static int64_t work_of(const Job& job) {
    return job.size() * (job.orthogonal_rows ? 1 + job.short_side() / ELEMENT_ROWS : 1);
}

template <class Stored>
static int64_t step_all(const Job* jobs, int64_t count, const Rule& rule, int threads) {
    int64_t skipped = 0, work = 0;
    for (int64_t i = 0; i < count; i++) work += work_of(jobs[i]);
    threads = int(std::max<int64_t>(std::min<int64_t>(threads, work / LEAST_WORK), 1));
    auto alone = [threads, work](const Job& job) {
        const int64_t own = work_of(job);
        return threads == 1 || own < LARGE || (job.size() < LARGE && own * threads <= work);
    };
    Room shared_room;
    for (int64_t i = 0; i < count; i++)
        if (!alone(jobs[i])) shared_room.grow(jobs[i], threads);
    const Workspace shared = shared_room.make();
#pragma omp parallel num_threads(threads) reduction(+ : skipped)
    {
        Team all{0, 1};
#if defined(_OPENMP)
        all = Team{omp_get_thread_num(), omp_get_num_threads()};
#endif
        Room room;
        for (int64_t i = 0; i < count; i++)
            if (alone(jobs[i])) room.grow(jobs[i], 1);
        const Workspace own = room.make();
        for (int64_t i = 0; i < count; i++)
            if (!alone(jobs[i])) skipped += !step_and_shape<Stored>(jobs[i], rule, all, shared) && all.rank == 0;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++)
            if (alone(jobs[i])) skipped += !step_and_shape<Stored>(jobs[i], rule, Team{0, 1}, own);
    }
    return skipped;
}

extern "C" {

// Update all tensors of `jobs`; `rates`, `weights` and `polynomials` as `Rule` reads them. Gives how many were skipped.
int64_t step(
    const Job* jobs, int64_t count, const double* rates, const float* weights, float epsilon, int scale, float tempering,
    const float* polynomials, int iterations, int bfloat16, int threads
) {
    const Rule rule(rates, weights, epsilon, scale, tempering, polynomials, iterations);
    return bfloat16 ? step_all<uint16_t>(jobs, count, rule, threads) : step_all<float>(jobs, count, rule, threads);
}
}

"""What is said of a benchmark against plain recomputations of it, loop by loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.benchmark.figures.contest import held_out_loss, winner
from tasks.benchmark.figures.resampling import CONFIDENCE, RESAMPLES
from tasks.benchmark.figures.summary import summarise
from tasks.benchmark.settings import TaskInfo
from tests.tasks.simulated import RATES, SCHEDULES, noisy_curve, simulated

MILLISECONDS = {"adam": 1, "adamw": 2, "ours": 3}


def smoothed(curve):
    window = max(1, round(len(curve) / 10))
    return [np.mean(curve[max(0, t + 1 - window) : t + 1]) for t in range(len(curve))]


def plain_envelope(results, task, optimizers, seeds, rates=RATES):
    """The lowest mean at each step, seeds given by position and perhaps repeated."""
    means = []
    for optimizer in optimizers:
        for schedule in SCHEDULES:
            for rate in rates:
                runs = results.runs(task, optimizer, schedule, rate)
                if all(run.status == "finished" for run in runs):
                    curves = [smoothed(run.curve.astype(float)) for run in runs]
                    means.append(np.mean([curves[seed] for seed in seeds], axis=0))
    return np.min(means, axis=0)


def first_at(curve, target):
    return next((t + 1 for t, loss in enumerate(curve) if loss <= target), math.inf)


def plain_race(results, task, ours, references, seeds, rates=RATES):
    """Target, our steps and those of each reference."""
    mine = plain_envelope(results, task, [ours], seeds, rates)
    each = {name: plain_envelope(results, task, [name], seeds) for name in references}
    theirs = np.min(list(each.values()), axis=0)
    worse = max(mine[-1], theirs[-1])
    target = worse + 0.01 * min(abs(worse), mine[0] - worse)
    return target, first_at(mine, target), {name: first_at(curve, target) for name, curve in each.items()}


def plain_speedup(results, task, ours, references, seeds):
    _, mine, theirs = plain_race(results, task, ours, references, seeds)
    return min(theirs.values()) / mine


@pytest.fixture(scope="module")
def results():
    return simulated()


def test_the_race_by_hand(results):
    for task in ("one", "two"):
        found = results.summary(task, "ours")
        target, mine, theirs = plain_race(results, task, "ours", ("adam", "adamw"), (0, 1, 2))
        assert found.target == pytest.approx(target, rel=1e-12)
        assert (found.steps_to_target, found.reference_steps_to_target) == (mine, min(theirs.values()))
        assert found.speedup.value == pytest.approx(min(theirs.values()) / mine)
        fastest = min(steps * MILLISECONDS[name] * 1e-3 for name, steps in theirs.items())
        assert found.seconds_to_target == pytest.approx(mine * 3e-3)
        assert found.reference_seconds_to_target == pytest.approx(fastest)
        assert found.wall_speedup.value == pytest.approx(fastest / (mine * 3e-3))
        assert (found.ms_per_step, found.optimizer_share, found.state_floats) == (1.5, 0.5, 2.0)


def test_matching_steps_by_hand(results):
    mine = plain_envelope(results, "one", ["ours"], (0, 1, 2))
    theirs = plain_envelope(results, "one", ["adam", "adamw"], (0, 1, 2))
    found = results.summary("one", "ours")
    assert (found.matched_at or math.inf) == first_at(theirs, mine[-1])
    assert (found.matches_at or math.inf) == first_at(mine, theirs[-1])


def test_the_headline_and_its_interval_by_hand(results):
    def headline(*samples):
        tasks = zip(("one", "two"), samples, strict=True)
        ratios = [
            plain_speedup(results, task, "ours", ("adam", "adamw"), known(seeds)) for task, seeds in tasks
        ]
        return math.exp(np.mean(np.log(ratios)))

    def known(seeds):
        return tuple(sorted(np.asarray(seeds).tolist()))

    memory = {}

    def remembered(*samples):
        key = tuple(known(seeds) for seeds in samples)
        if key not in memory:
            memory[key] = headline(*samples)
        return memory[key]

    outcome = scipy.stats.bootstrap(
        (np.arange(3), np.arange(3)),
        remembered,
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    )
    found = next(one for one in results.headlines if (one.optimizer, one.choice) == ("ours", "tuned"))
    assert found.speedup.value == pytest.approx(headline((0, 1, 2), (0, 1, 2)))
    assert (found.speedup.low, found.speedup.high) == pytest.approx(tuple(outcome.confidence_interval))
    assert (found.tasks, found.steps, found.seeds) == (("one", "two"), (40, 40), (0, 1, 2))


def test_the_default_line_races_at_its_rate_alone(results):
    found = results.summary("one", "ours", "default")
    _, mine, theirs = plain_race(results, "one", "ours", ("adam", "adamw"), (0, 1, 2), rates=(5e-3,))
    assert found.learning_rate == 5e-3
    assert found.speedup.value == pytest.approx(min(theirs.values()) / mine)


def test_averages_and_improvement_by_hand(results):
    def tuned(optimizers):
        groups = [
            results.runs("one", name, schedule, rate)
            for name in optimizers
            for schedule in SCHEDULES
            for rate in RATES
        ]
        return min(groups, key=lambda group: np.mean([run.final_loss for run in group]))

    ours, theirs = tuned(["ours"]), tuned(["adam", "adamw"])
    found = results.summary("one", "ours")
    better = [mine.final_loss < their.final_loss for mine, their in zip(ours, theirs, strict=True)]
    assert found.improvement.value == pytest.approx(np.mean(better))
    assert found.final_loss.value == pytest.approx(np.mean([run.final_loss for run in ours]))
    assert found.mean_loss.value == pytest.approx(np.mean([run.curve.astype(float).mean() for run in ours]))
    for metric, figure in found.validation.items():
        values = [run.validation[metric] for run in ours]
        assert figure.value == pytest.approx(np.mean(values))
        assert min(values) <= figure.low <= figure.value <= figure.high <= max(values)


def test_headlines_average_improvement_over_tasks(results):
    for line in results.headlines:
        each = [
            results.summary(task, line.optimizer, line.choice).improvement.value for task in results.tasks
        ]
        assert line.improvement.value == pytest.approx(np.mean(each))


def test_profiles_by_hand(results):
    shares = {name: [] for name in MILLISECONDS}
    for task in ("one", "two"):
        curves = {name: plain_envelope(results, task, [name], (0, 1, 2)) for name in MILLISECONDS}
        theirs = np.minimum(curves["adam"], curves["adamw"])
        target = theirs[-1] + 0.01 * min(theirs[-1], theirs[0] - theirs[-1])
        steps = {name: first_at(curve, target) for name, curve in curves.items()}
        for name in shares:
            shares[name].append(steps[name] / min(steps.values()))
    assert [profile.optimizer for profile in results.profiles] == list(MILLISECONDS)
    for profile in results.profiles:
        expected = [
            np.mean([ratio <= limit for ratio in shares[profile.optimizer]]) for limit in profile.ratios
        ]
        assert profile.share == pytest.approx(expected)
        assert len(profile.low) == len(profile.high) == len(profile.ratios)
        assert all(low <= high for low, high in zip(profile.low, profile.high, strict=True))


def test_the_held_out_loss_by_hand(results):
    settings = [(schedule, rate) for schedule in SCHEDULES for rate in RATES]
    finals = np.array([[run.final_loss for run in results.runs("two", "ours", *one)] for one in settings])
    chosen = [
        min(range(4), key=lambda k: np.mean([finals[k, s] for s in (0, 1, 2) if s != out]))
        for out in (0, 1, 2)
    ]
    expected = np.mean([finals[k, out] for out, k in enumerate(chosen)])
    assert results.summary("two", "ours").held_out_loss == pytest.approx(expected)


def test_the_held_out_loss_is_infinite_where_the_choice_diverges_on_the_seed_left_out():
    def curve(cell):
        best = cell.learning_rate == 1e-2 and cell.schedule == "cosine"
        return None if best and cell.seed == 2 else noisy_curve(cell) - best

    found = simulated(curve=curve).summary("one", "ours")
    assert found.held_out_loss == math.inf
    assert math.isfinite(found.final_loss.value)
    assert simulated(curve=curve, seeds=(0,)).summary("one", "ours").held_out_loss is None


TASK = TaskInfo("one", "Task one", "loss", steps=2, higher_is_better=False)
TEMPLATE = simulated(tasks=("one",), optimizers=("adam",), references=(), seeds=(0,), steps=2).cells[0]


@given(arrays(np.float64, (5, 3), elements=st.integers(0, 9)))
def test_choosing_on_the_other_seeds_never_looks_better_than_on_all(losses):
    runs = {
        ("constant", float(rate)): [replace(TEMPLATE, final_loss=loss) for loss in row]
        for rate, row in enumerate(losses.tolist())
    }
    chosen = np.mean([run.final_loss for run in runs[winner(runs, TASK, "train")]])
    assert chosen == losses.mean(axis=1).min()
    assert held_out_loss(runs, TASK, "train") >= chosen - 1e-12


@pytest.mark.parametrize(
    ("metric", "higher_is_better", "best"),
    [("accuracy", None, max), ("loss", None, min), ("loss", True, max), ("accuracy", False, min)],
)
def test_a_setting_can_be_chosen_by_validation(metric, higher_is_better, best):
    results = simulated(metric=metric, higher_is_better=higher_is_better, select="validation")
    for task in results.tasks:
        found = results.summary(task, "ours")
        means = {
            (schedule, rate): np.mean(
                [run.validation[metric] for run in results.runs(task, "ours", schedule, rate)]
            )
            for schedule in SCHEDULES
            for rate in RATES
        }
        assert (found.schedule, found.learning_rate) == best(means, key=lambda setting: means[setting])
        assert found.speedup == simulated(metric=metric).summary(task, "ours").speedup, (
            "races use every setting"
        )


def test_swapping_an_optimizer_and_its_reference_inverts_the_speedups():
    forth = simulated(optimizers=("adam", "ours"), references=("adam",))
    back = simulated(optimizers=("adam", "ours"), references=("ours",))
    ours = next(line for line in forth.headlines if line.choice == "tuned")
    adam = next(line for line in back.headlines if line.choice == "tuned")
    assert (ours.optimizer, adam.optimizer) == ("ours", "adam")
    for name in ("speedup", "wall_speedup"):
        assert getattr(ours, name).value == pytest.approx(1 / getattr(adam, name).value)
    assert ours.speedup.low == pytest.approx(1 / adam.speedup.high)
    assert ours.improvement.value + adam.improvement.value == pytest.approx(1.0)


def test_a_lone_reference_has_no_headline_and_one_of_several_does(results):
    alone = simulated(references=("adamw",))
    assert {line.optimizer for line in alone.headlines} == {"adam", "ours"}
    assert {line.optimizer for line in results.headlines} == {"adam", "adamw", "ours"}
    assert results.headline.optimizer == "ours"
    assert results.settings.reference_label == "adam and adamw"
    assert alone.settings.reference_label == "adamw"
    nobody = simulated(learned=(), references=("adam", "adamw"))
    assert nobody.headline.optimizer == "ours", "references come last"


def test_without_references_there_is_no_race():
    results = simulated(references=())
    assert results.headline is None
    assert results.profiles == ()
    found = results.summary("one", "ours")
    assert (found.speedup, found.improvement, found.target, found.matched_at) == (None,) * 4
    assert found.final_loss.low < found.final_loss.high


def test_what_never_finishes_improves_nothing_and_is_in_no_share():
    results = simulated(curve=lambda cell: None if cell.optimizer == "ours" else noisy_curve(cell))
    found, line = results.summary("one", "ours"), results.headline
    assert (found.final_loss, found.speedup, found.diverged) == (None, None, 1.0)
    assert (line.optimizer, line.speedup, line.wall_speedup) == ("ours", None, None)
    assert (line.improvement.value, line.improvement.high) == (0.0, 0.0)
    assert set(results.profiles[2].share) == {0.0}


def test_what_is_not_timed_has_no_clock(results):
    untimed = simulated(timed=("adam", "ours"))
    found = untimed.summary("one", "ours")
    assert found.seconds_to_target is not None
    assert (found.reference_seconds_to_target, found.wall_speedup) == (None, None)
    assert untimed.headline.wall_speedup is None
    assert untimed.summary("one", "adamw").ms_per_step is None
    assert untimed.headline.speedup == results.headline.speedup


def test_a_task_on_which_the_references_make_no_progress_has_no_target():
    def curve(cell):
        return 5 - noisy_curve(cell) if cell.task == "two" else noisy_curve(cell)

    results = simulated(curve=curve)
    assert results.summary("one", "ours").speedup is not None
    assert results.summary("two", "ours").speedup is None
    assert results.summary("two", "ours").target is None
    assert results.headline.speedup is None
    assert results.profiles == ()


def test_the_order_of_cells_does_not_count(results):
    shuffled = tuple(np.random.default_rng(0).permutation(np.array(results.cells, dtype=object)))
    again = summarise(results.settings, results.tasks, shuffled, results.timings)
    assert again == (results.summaries, results.headlines, results.profiles)

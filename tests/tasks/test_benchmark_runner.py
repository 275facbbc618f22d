import importlib
import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks import Task, get_task
from tasks.benchmark import BenchmarkInterrupted, Entry, get_entry, run_benchmark
from tasks.benchmark.running.campaign import run_missing
from tasks.benchmark.running.cell import Cell
from tasks.benchmark.running.jobs import Context, GroupJob, TimingJob
from tasks.benchmark.running.population import run_group
from tasks.benchmark.running.streams import task_fingerprint
from tasks.benchmark.running.workers import TimeLimitReached
from tasks.registry import UnknownNameError

RATES = (1e-3, 1e-2)
ADAM = replace(get_entry("adam"), default_lr=1e-2, learning_rates=RATES)
OTHER = """
import os
import torch

def dies(params, *, lr):
    os._exit(3)

def raises(params, *, lr):
    raise ArithmeticError("unlucky")
"""


def run(out, entries=(ADAM,), names=("quadratic",), **options):
    defaults = {"seeds": 2, "steps": 30, "workers": 0, "progress": False}
    return run_benchmark(names, entries, out=out, **{**defaults, **options})


def curves(results):
    return {result.cell: result.curve.tobytes() for result in results.cells}


@pytest.fixture
def counted(monkeypatch):
    """Cells that ran, in order."""
    ran = []

    def counting(task, entry, cells, **options):
        ran.extend(cells)
        return run_group(task, entry, cells, **options)

    monkeypatch.setattr("tasks.benchmark.running.jobs.run_group", counting)
    return ran


def test_every_cell_runs_once_and_all_files_are_written(tmp_path, counted):
    results = run(tmp_path, names=("quadratic", "digits-mlp-32"))
    assert len(results.cells) == len(counted) == 2 * 2 * 2 * 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "cells.jsonl",
        "timings.jsonl",
        "results.json",
        "index.html",
        "tables.md",
        "tables.tex",
        "curves-quadratic.png",
        "curves-digits-mlp-32.png",
        "lr-quadratic.png",
        "lr-digits-mlp-32.png",
    }


def test_equal_factories_give_equal_curves(tmp_path):
    results = run(tmp_path, (ADAM, replace(ADAM, name="twin")), names=("digits-mlp-32",))
    by_setting = {}
    for result in results.cells:
        cell = result.cell
        by_setting.setdefault((cell.schedule, cell.learning_rate, cell.seed), []).append(result.curve)
    for ours, twin in by_setting.values():
        np.testing.assert_array_equal(ours, twin)
    assert results.summary("digits-mlp-32", "twin").speedup.value == 1.0
    assert results.headline.speedup.value == 1.0


def test_workers_agree_with_this_process_and_a_crash_is_one_failed_cell(tmp_path, monkeypatch):
    (tmp_path / "unruly.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    unruly = importlib.import_module("unruly")
    entries = (ADAM, Entry("dies", unruly.dies, 1.0), Entry("raises", unruly.raises, 1.0))
    options = {"names": ("digits-mlp-32",), "seeds": 1, "schedules": ("cosine",)}
    parallel = run(tmp_path / "parallel", entries, workers=2, **options)
    assert not multiprocessing.active_children()
    here = run(tmp_path / "here", (ADAM,), **options)
    status = {result.cell.optimizer: (result.status, result.error) for result in parallel.cells}
    assert status["adam"] == ("finished", "")
    assert status["dies"] == ("failed", "WorkerDied: the worker process died (exit status 3)")
    assert status["raises"] == ("failed", "ArithmeticError: unlucky")
    assert curves(here).items() <= curves(parallel).items()
    assert [one.failed for one in parallel.summaries] == [0, 0, 1, 1]


@pytest.fixture
def unlucky(tmp_path, monkeypatch):
    """Runs cells of which some never end; gives results and the sizes of the jobs that were tried."""
    tried = []

    def jobs_in_turn(run, context, jobs, *, workers, time_limit):
        while jobs:
            job = jobs.popleft()
            rates = [cell.learning_rate for cell in job.cells] if isinstance(job, GroupJob) else []
            tried.append(len(rates))
            stopped = TimeLimitReached(f"stopped after {time_limit:g} seconds")
            yield job, stopped if any(rate >= 1.0 for rate in rates) else run(context, job)

    def run_these(rates):
        cells = [Cell("quadratic", "descent", "constant", rate, 0, 5) for rate in rates]
        entry = Entry("descent", torch.optim.SGD, 1e-3)
        context = Context({"quadratic": "quadratic"}, {"descent": entry}, "cpu", tmp_path / "minima")
        results, timings = run_missing(context, cells, tmp_path, workers=1, time_limit=9.0, progress=False)
        assert [one.cell for one in results] == cells
        return results, timings, tried

    monkeypatch.setattr("tasks.benchmark.running.campaign.run_jobs", jobs_in_turn)
    return run_these


def test_a_run_that_hangs_costs_a_few_retries_and_fails_alone(unlucky):
    results, timings, tried = unlucky([*np.linspace(1e-4, 1e-3, 7).tolist(), 1.0])
    assert [one.status for one in results] == ["finished"] * 7 + ["failed"]
    assert results[-1].error == "TimeLimitReached: stopped after 9 seconds"
    assert tried == [8, 4, 4, 2, 2, 1, 1, 0]
    assert timings.keys() == {("quadratic", "descent")}


def test_an_optimizer_that_keeps_hanging_is_given_up(unlucky):
    results, timings, tried = unlucky([1.0, 2.0, 3.0, 4.0, 5.0])
    assert {one.status for one in results} == {"failed"}
    assert [one.error for one in results[:3]] == ["TimeLimitReached: stopped after 9 seconds"] * 3
    assert all("not run: 3 runs of this optimizer on this task" in one.error for one in results[3:])
    assert tried == [5, 2, 1, 1, 3, 1]
    assert not timings


def test_minima_are_kept_beside_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.minima._memory", {})
    results = run(tmp_path, names=("rastrigin-2", "quadratic"))
    kept = [json.loads(file.read_text())["minimum"] for file in (tmp_path / "minima").iterdir()]
    assert len(kept) == 2, "one for each instance of rastrigin-2"
    for result in results.cells:
        if result.cell.task == "rastrigin-2":
            loss, gap = result.validation["loss"], result.validation["gap"]
            assert min(abs(loss - gap - minimum) for minimum in kept) < 1e-9


def test_a_rerun_reuses_what_is_there_and_runs_only_what_is_new(tmp_path, counted):
    first = run(tmp_path)
    assert len(counted) == 8
    assert curves(run(tmp_path)) == curves(first)
    assert len(counted) == 8
    run(tmp_path, seeds=3)
    assert len(counted) == 12
    changed = replace(ADAM, identity="another optimizer")
    run(tmp_path, (changed,))
    assert len(counted) == 20
    run(tmp_path, steps=31)
    assert len(counted) == 28


def test_failed_cells_run_again(tmp_path, counted):
    def raises(params, *, lr):
        raise RuntimeError("once")

    run(tmp_path, (Entry("raises", raises, 1.0),), seeds=1)
    run(tmp_path, (Entry("raises", raises, 1.0),), seeds=1)
    assert len(counted) == 4


def test_ctrl_c_keeps_what_has_finished(tmp_path, counted, monkeypatch):
    def interrupted(task, entry, cells, **options):
        if len(counted) == 4:
            raise KeyboardInterrupt
        counted.extend(cells)
        return run_group(task, entry, cells, **options)

    monkeypatch.setattr("tasks.benchmark.running.jobs.run_group", interrupted)
    with pytest.raises(BenchmarkInterrupted, match="stopped after 4 of 8 runs") as caught:
        run(tmp_path)
    assert (caught.value.done, caught.value.total, caught.value.out) == (4, 8, tmp_path)
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 4
    monkeypatch.setattr("tasks.benchmark.running.jobs.run_group", run_group)
    assert curves(run(tmp_path)) == curves(run(tmp_path / "afresh"))


def test_corrupt_lines_are_said_and_run_again(tmp_path, counted, capsys):
    first = run(tmp_path, seeds=1)
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text("".join([lines[0][:100] + "\n", *lines[1:]]))
    counted.clear()
    again = run(tmp_path, seeds=1, progress=True)
    assert [cell.key for cell in counted] == [first.cells[0].cell.key]
    assert "1 unreadable lines of cells.jsonl" in capsys.readouterr().out
    assert len(again.cells) == len(first.cells)


def test_every_pair_is_timed_once(tmp_path, monkeypatch):
    def raises(params, *, lr):
        raise ArithmeticError("unlucky")

    results = run(tmp_path, (ADAM, Entry("raises", raises, 1.0)), seeds=1)
    assert results.timings.keys() == {("quadratic", "adam")}
    timing = results.timings["quadratic", "adam"]
    assert 0 < timing.step_seconds < timing.training_seconds

    def refuse(*_, **__):
        raise AssertionError("timed again")

    monkeypatch.setattr("tasks.benchmark.running.jobs.time_entry", refuse)
    assert run(tmp_path, (ADAM,), seeds=2).timings == results.timings


def test_optimizers_are_timed_last_and_one_at_a_time(tmp_path, monkeypatch):
    queues = []

    def noted(run, context, jobs, *, workers, time_limit):
        queues.append((workers, {type(job) for job in jobs}))
        while jobs:
            job = jobs.popleft()
            yield job, run(context, job)

    monkeypatch.setattr("tasks.benchmark.running.campaign.run_jobs", noted)
    results = run(tmp_path, (ADAM, get_entry("sgd")), workers=3, seeds=1)
    assert queues == [(3, {GroupJob}), (1, {TimingJob})]
    assert results.timings.keys() == {("quadratic", "adam"), ("quadratic", "sgd")}


def test_the_sweep_and_the_default(tmp_path):
    adam = replace(ADAM, default_lr=5e-3)
    results = run(tmp_path / "own", (adam,))
    tuned, default = results.summaries
    assert (tuned.settings_tried, default.settings_tried) == (4, 2)
    assert default.learning_rate == 5e-3
    assert tuned.learning_rate in RATES
    given = run(tmp_path / "given", (adam,), learning_rates=(0.1, 0.2, 0.1))
    assert {result.cell.learning_rate for result in given.cells} == {0.1, 0.2}
    assert [one.choice for one in given.summaries] == ["tuned"]


def test_the_seed_picks_the_instance_of_a_named_task(tmp_path):
    options = {"seeds": (3, 5), "learning_rates": (1e-3,), "schedules": ("constant",)}
    results = run(tmp_path, **options)
    fixed = run(tmp_path, names=(get_task("quadratic", seed=3),), **options)
    ours, same = (
        results.runs("quadratic", "adam", "constant", 1e-3),
        fixed.runs("quadratic", "adam", "constant", 1e-3),
    )
    assert ours[0].curve.tobytes() == same[0].curve.tobytes()
    assert ours[1].curve.tobytes() != same[1].curve.tobytes()


def test_steps_default_to_the_tasks_own(tmp_path):
    task = get_task("quadratic")
    task.default_steps = 7
    results = run(tmp_path, names=(task,), steps=None, learning_rates=(1e-3,))
    assert {len(result.curve) for result in results.cells} == {7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "seed is -1; expected an integer from 0 to 4294967295"),
        ({"seeds": (2**32 - 1, 2**32)}, "seed is 4294967296; expected"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedules": ()}, "at least one schedule"),
        ({"schedules": ("cosinus",)}, "'cosinus'.*'cosine'"),
        ({"learning_rates": ()}, "at least one learning rate"),
        ({"learning_rates": (0.1, -1.0)}, "above 0, got -1.0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"time_limit": 0.0}, "time_limit must be above 0 seconds, got 0.0"),
        ({"names": ()}, "at least one of tasks"),
        ({"names": ("quadratic", "quadratic")}, "distinct names"),
        ({"entries": ()}, "at least one of entries"),
        ({"entries": (ADAM, ADAM)}, "distinct names"),
        ({"references": ("adamm",)}, "'adamm'.*'adam'"),
        ({"references": "adam"}, "the string 'adam'; expected a sequence"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_names_list_the_valid_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="'rastrigin-10'"):
        run(tmp_path / "out", names=("rastrign-10",))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match="'sgd'"):
        run(tmp_path, entries=("sdg",))


def test_factories_that_cannot_travel_are_refused_for_workers(tmp_path):
    local = Entry("local", lambda params, *, lr: torch.optim.SGD(params, lr=lr), 1.0)
    with pytest.raises(ValueError, match=r"local cannot be sent to a worker .*workers=0"):
        run(tmp_path / "out", (local,), workers=1)
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_refused(tmp_path, counted):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="it is a file"):
        run(tmp_path / "out")
    assert not counted


def test_results_are_strict_json_that_holds_every_run(tmp_path):
    def unstable(params, *, lr):
        return torch.optim.SGD(params, lr=lr, maximize=True)

    results = run(tmp_path, (ADAM, Entry("unstable", unstable, 10.0)), steps=300)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "results.json").read_text()
    document = json.loads(text, parse_constant=refuse)
    assert str(tmp_path) not in text
    assert (document["format"], document["version"]) == ("learned-opt-benchmark", 2)
    assert len(document["cells"]) == len(results.cells)
    for record, result in zip(document["cells"], results.cells, strict=True):
        if record["curve"] is not None:
            assert len(record["curve"]["step"]) == len(record["curve"]["loss"]) <= 200
            assert record["curve"]["step"][-1] == len(result.curve)
        assert (record["final_loss"] is None) == (record["status"] != "finished")
    unstable_lines = [line for line in document["summary"] if line["optimizer"] == "unstable"]
    assert [line["diverged"] for line in unstable_lines] == [1.0]
    assert unstable_lines[0]["final_loss"] is None
    assert document["headline"]["speedup_iqm"] is None


class Own(Task):
    """A user's task, whose validation is a number added to the parameters' sum."""

    def __init__(self, *, name="own", metric="loss", shift=0.0, measures=("loss",)):
        super().__init__(
            name=name, description="A bowl.", default_steps=10, learning_rates=(0.1, 1.0), metric=metric
        )
        self.shift, self.measures = shift, measures

    def init(self, generator):
        return {"x": torch.randn(3, generator=generator)}

    def batch(self, generator, split="train"):
        return (torch.rand(2, generator=generator),)

    def loss(self, params, batch):
        return params["x"].square().sum() + 0 * batch[0].sum()

    def normalise(self, loss):
        return loss

    def evaluate(self, params):
        return {name: float(params["x"].sum()) + self.shift for name in self.measures}


@pytest.mark.parametrize(
    "changed", [Own(shift=1.0), Own(measures=("loss", "f1")), Own(metric="f1", measures=("loss", "f1"))]
)
def test_runs_of_a_task_that_is_judged_in_another_way_are_not_reused(tmp_path, counted, changed):
    def validation(task, out):
        results = run(out, names=(task,), seeds=1, steps=3)
        return [result.validation for result in results.cells]

    first = validation(Own(), tmp_path / "out")
    assert validation(Own(), tmp_path / "out") == first
    assert len(counted) == 4
    again = validation(changed, tmp_path / "out")
    assert again == validation(changed, tmp_path / "afresh") != first


def test_named_tasks_keep_their_runs(tmp_path):
    results = run(tmp_path, seeds=1, steps=3)
    expected = task_fingerprint(get_task("quadratic", seed=0), 0)
    assert {result.cell.content for result in results.cells} == {f"{expected} {ADAM.fingerprint}"}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Own(metric="rmse"), "task own: its metric is 'rmse'; expected one that .* which are loss$"),
        (Own(metric="rmse", measures=()), "which are none$"),
        (Own(name="own/task"), "a task's name must be .* without slashes, got 'own/task'"),
        (Own(name=""), "a task's name must be non-empty"),
    ],
)
def test_tasks_that_could_not_be_reported_are_refused_before_anything_runs(tmp_path, counted, task, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", names=(task,), steps=3)
    assert not counted
    assert not (tmp_path / "out").exists()


def test_steps_are_given_by_the_names_of_tasks(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'quadratc'\. Did you mean 'quadratic'"):
        run(tmp_path / "out", steps={"quadratc": 3})
    assert not (tmp_path / "out").exists()
    results = run(tmp_path, names=(Own(),), seeds=1, steps={"own": 3, "quadratic": 5})
    assert {result.cell.steps for result in results.cells} == {3}

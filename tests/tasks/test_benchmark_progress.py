import math

import pytest

from tasks.benchmark import Entry, run_benchmark
from tasks.benchmark.running.cell import Cell
from tasks.benchmark.running.jobs import GroupJob, evenly_cut
from tasks.benchmark.running.progress import Bar, Forecast


def job(task="small", optimizer="adam", *, runs=2, steps=100, seed=0):
    return GroupJob(
        tuple(Cell(task, optimizer, "constant", rate, seed, steps) for rate in range(1, runs + 1))
    )


def test_the_time_left_follows_what_each_kind_of_job_took():
    small, large = job("small"), job("large", steps=1000)
    jobs = [small, large, job("small", seed=1), job("large", steps=1000, seed=1)]
    forecast = Forecast(jobs, workers=2)
    assert (forecast.seconds, forecast.share) == (math.inf, 0.0)
    forecast.done(small, 2.0)
    assert forecast.seconds == pytest.approx((2 + 2 * 20) / 2), "by the step, for lack of better"
    forecast.done(large, 100.0)
    assert forecast.seconds == pytest.approx((2 + 100) / 2)
    assert forecast.share == pytest.approx(0.5)


def test_a_new_optimizer_is_expected_to_cost_what_others_cost_on_that_task():
    known, other = job("small"), job("large")
    forecast = Forecast([known, other, job("large", "sgd")], workers=1)
    forecast.done(known, 1.0)
    forecast.done(other, 50.0)
    assert forecast.seconds == pytest.approx(50.0)


def test_halves_of_a_job_and_failures_are_counted_once():
    whole = job(runs=5)
    forecast = Forecast([whole], workers=1)
    first, second = whole.halves()
    assert (len(first.cells), len(second.cells)) == (2, 3)
    forecast.done(first, 1.0)
    assert forecast.seconds == pytest.approx(1.5)
    forecast.done(second, 0.0)
    assert forecast.seconds == 0.0


def test_the_bar_says_what_is_left(capsys):
    jobs = [job(), job(seed=1)]
    forecast = Forecast(jobs, workers=1)
    with Bar(True, total=5, done=1, forecast=forecast, timings=2) as bar:
        bar.say("a line")
        forecast.done(jobs[0], 3600.0)
        bar.advance(2)
    out = capsys.readouterr().out
    assert "a line" in out
    assert "3/5 runs" in out
    assert "left 1:00:00" in out
    assert "timing" not in out
    with Bar(False, total=5, done=1, forecast=forecast, timings=2) as bar:
        bar.say("a line")
    assert capsys.readouterr().out == ""


def test_lines_tell_of_the_progress_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("tasks.benchmark.running.progress.LINE_EVERY", -1.0)
    jobs = [job(), job(seed=1)]
    forecast = Forecast(jobs, workers=1)
    with Bar(True, total=4, done=0, forecast=forecast, timings=0) as bar:
        forecast.done(jobs[0], 60.0)
        bar.advance(2)
    assert "benchmark 2/4 runs left 0:01:00" in capsys.readouterr().out.splitlines()


def test_timings_have_a_bar_once_all_runs_are_done(capsys):
    jobs = [job()]
    forecast = Forecast(jobs, workers=1)
    with Bar(True, total=2, done=0, forecast=forecast, timings=2) as bar:
        forecast.done(jobs[0], 1.0)
        bar.advance(2)
    out = capsys.readouterr().out
    assert "2/2 runs" in out
    assert "left" not in out
    assert "timing" in out
    assert "0/2 short runs" in out
    with Bar(True, total=2, done=2, forecast=Forecast([], workers=1), timings=2) as bar:
        bar.time(1)
    assert "1/2 short runs" in capsys.readouterr().out


def test_a_benchmark_that_was_there_already_is_done(capsys):
    forecast = Forecast([], workers=1)
    assert (forecast.seconds, forecast.share) == (0.0, 1.0)
    with Bar(True, total=2, done=2, forecast=forecast, timings=0):
        pass
    out = capsys.readouterr().out
    assert "2/2 runs" in out
    assert "timing" not in out


def test_a_benchmark_counts_its_timings_even_of_optimizers_that_fail(tmp_path, capsys):
    def fails(params, *, lr):
        raise ArithmeticError("unlucky")

    run_benchmark(
        ["quadratic"],
        ["adam", Entry("fails", fails, 1e-3)],
        seeds=1,
        steps=5,
        schedules=["constant"],
        learning_rates=[1e-2],
        out=tmp_path,
        workers=0,
    )
    assert "2/2 short runs" in capsys.readouterr().out


def test_cells_are_cut_into_even_pieces():
    cells = job(runs=29).cells
    assert [len(piece) for piece in evenly_cut(cells, 32)] == [29]
    pieces = list(evenly_cut(cells, 12))
    assert [len(piece) for piece in pieces] == [9, 10, 10]
    assert sum(pieces, ()) == cells

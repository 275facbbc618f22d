import math

import pytest

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
    with Bar(True, total=5, done=1, forecast=forecast) as bar:
        bar.say("a line")
        forecast.done(jobs[0], 3600.0)
        bar.advance(2)
    out = capsys.readouterr().out
    assert "a line" in out
    assert "3/5 runs" in out
    assert "left 01:00:00" in out
    with Bar(False, total=5, done=1, forecast=forecast) as bar:
        bar.say("a line")
    assert capsys.readouterr().out == ""


def test_cells_are_cut_into_even_pieces():
    cells = job(runs=29).cells
    assert [len(piece) for piece in evenly_cut(cells, 32)] == [29]
    pieces = list(evenly_cut(cells, 12))
    assert [len(piece) for piece in pieces] == [9, 10, 10]
    assert sum(pieces, ()) == cells

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks import get_task
from tasks.base import Task
from tasks.benchmark.contestants.baselines import Entry, get_entry
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell, CellResult, final_window
from tasks.benchmark.running.streams import CHUNK, batch_stream, initial_parameters, task_fingerprint

ADAM = get_entry("adam")


class Slope(Task):
    """A line that falls for ever from a given start; ``bad_from`` makes later losses NaN."""

    def __init__(self, start=1.0, bad_from=None):
        super().__init__(name="slope", description="A line.", default_steps=10, learning_rates=(0.1, 1.0))
        self.start, self.bad_from, self.calls = start, bad_from, 0

    def init(self, generator):
        return {"x": torch.randn(4, generator=generator)}

    def batch(self, generator, split="train"):
        return (torch.rand(2, generator=generator),)

    def loss(self, params, batch):
        self.calls += 1
        scale = math.nan if self.bad_from is not None and self.calls > self.bad_from else 1.0
        return scale * (self.start + params["x"].sum() - params["x"].detach().sum() + 0 * batch[0].sum())

    def normalise(self, loss):
        return loss

    def evaluate(self, params):
        return {"loss": float(params["x"].sum())}


def cell(task="slope", **changes):
    return replace(Cell(task, "adam", "constant", 1e-2, seed=0, steps=40), **changes)


@pytest.mark.parametrize("name", ["digits-mlp-32", "quadratic"])
def test_equal_cells_give_equal_curves_and_other_seeds_others(name):
    first, second = (run_cell(get_task(name, seed=3), ADAM, cell(name, seed=3)) for _ in range(2))
    other = run_cell(get_task(name, seed=4), ADAM, cell(name, seed=4))
    assert first.status == "finished"
    assert first.curve.dtype == np.float32
    assert first.curve.tobytes() == second.curve.tobytes()
    assert first.validation == second.validation
    assert first.curve.tobytes() != other.curve.tobytes()


def test_optimizers_start_from_equal_weights_and_see_equal_batches():
    task = get_task("digits-mlp-32", seed=0)
    results = [run_cell(task, get_entry(name), cell("digits-mlp-32")) for name in ("adam", "sgd")]
    assert results[0].curve[0] == results[1].curve[0]
    assert results[0].curve[1] != results[1].curve[1]
    frozen = Entry("frozen", torch.optim.SGD, 1e-30)
    still = run_cell(task, frozen, cell("digits-mlp-32", learning_rate=1e-30))
    params, stream = initial_parameters(task, 0), batch_stream(task, 0)
    expected = [task.loss(params, batch).item() for batch, _ in zip(stream, range(40), strict=False)]
    np.testing.assert_allclose(still.curve, expected, rtol=1e-6)


def test_a_longer_run_begins_with_the_batches_of_a_shorter_one():
    task = get_task("digits-mlp-32", seed=0)
    short, long = (run_cell(task, ADAM, cell("digits-mlp-32", steps=steps)) for steps in (7, CHUNK + 7))
    np.testing.assert_array_equal(short.curve, long.curve[:7])


def test_the_global_generator_and_the_thread_count_are_left_alone():
    torch.manual_seed(1)
    expected = torch.get_rng_state()
    threads = torch.get_num_threads()
    run_cell(Slope(), ADAM, cell())
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.get_num_threads() == threads


def test_figures_of_a_finished_run():
    task = get_task("digits-mlp-32", seed=0)
    result = run_cell(task, ADAM, cell("digits-mlp-32"))
    assert result.final_loss == pytest.approx(result.curve[-4:].mean(), rel=1e-6)
    assert result.mean_loss == pytest.approx(result.curve.mean(), rel=1e-6)
    assert set(result.validation) == {"loss", "accuracy"}
    assert result.parameters == 64 * 32 + 32 + 32 * 10 + 10
    assert result.seconds > 0
    assert result.path.shape == (0, 2)


@pytest.mark.parametrize("rate", [1e-2, 1e30])
def test_the_path_is_kept_where_there_are_two_parameters(rate):
    task = get_task("rastrigin-2", seed=0)
    entry = Entry("descent", torch.optim.SGD, rate)
    result = run_cell(task, entry, cell("rastrigin-2", learning_rate=rate))
    assert result.status == ("finished" if rate < 1 else "diverged")
    steps = len(result.curve)
    assert result.path.shape == (steps + (result.status == "finished"), 2)
    assert result.path.dtype == np.float32
    np.testing.assert_array_equal(result.path[0], initial_parameters(task, 0)["x"].numpy())
    batch = next(batch_stream(task, 0))
    losses = [task.loss({"x": torch.tensor(point)}, batch).item() for point in result.path[:steps]]
    np.testing.assert_allclose(losses, result.curve, rtol=1e-6)


def test_the_schedule_scales_every_group():
    class TwoGroups(torch.optim.SGD):
        def __init__(self, params, *, lr):
            super().__init__(params, lr=lr)
            self.add_param_group({"params": [("extra", torch.zeros(1, requires_grad=True))], "lr": 3 * lr})
            self.rates = []

        def step(self, closure=None):
            self.rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    made = []

    def factory(params, *, lr):
        made.append(TwoGroups(params, lr=lr))
        return made[-1]

    run_cell(Slope(), Entry("two", factory, 1.0), cell(schedule="cosine", steps=10))
    np.testing.assert_allclose(made[0].rates[5], [0.5e-2, 1.5e-2])


@pytest.mark.parametrize("bad_from", [0, 5, 39])
def test_a_loss_that_is_no_number_stops_the_run(bad_from):
    result = run_cell(Slope(bad_from=bad_from), ADAM, cell())
    assert result.status == "diverged"
    assert len(result.curve) == bad_from + 1
    assert result.final_loss == result.mean_loss == math.inf
    assert result.validation == {}


def test_a_loss_a_hundred_times_above_the_start_stops_the_run():
    uphill = Entry("uphill", lambda params, *, lr: torch.optim.SGD(params, lr=lr, maximize=True), 1.0)
    task = get_task("quadratic", seed=0)
    result = run_cell(task, uphill, cell("quadratic", learning_rate=1.0))
    assert result.diverged
    assert result.curve[-1] > 100 * result.curve[0] > result.curve[-2] / 1.01


def test_a_last_update_that_breaks_the_weights_is_divergence():
    class Breaks(torch.optim.SGD):
        count = 0

        def step(self, closure=None):
            self.count += 1
            if self.count == 40:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].fill_(math.nan)

    breaks = Entry("breaks", lambda params, *, lr: Breaks(params, lr=lr), 1.0)
    result = run_cell(get_task("quadratic", seed=0), breaks, cell("quadratic"))
    assert result.diverged
    assert len(result.curve) == 40


def test_an_exception_is_a_failed_result_of_one_line():
    def factory(params, *, lr):
        raise RuntimeError("no\nluck")

    result = run_cell(Slope(), Entry("raises", factory, 1.0), cell())
    assert (result.status, result.error) == ("failed", "RuntimeError: no luck")
    assert len(result.curve) == 0


def test_fingerprints_follow_the_data_and_the_loss():
    prints = {
        task_fingerprint(Slope(), 0),
        task_fingerprint(Slope(), 1),
        task_fingerprint(Slope(start=2.0), 0),
    }
    assert len(prints) == 3
    assert task_fingerprint(Slope(), 0) in prints


def test_keys_tell_every_field_apart():
    fields = {
        "schedule": "cosine",
        "learning_rate": 0.1,
        "seed": 1,
        "steps": 41,
        "content": "x",
        "optimizer": "y",
    }
    keys = {cell().key, *(cell(**{name: value}).key for name, value in fields.items())}
    assert len(keys) == len(fields) + 1


@pytest.mark.parametrize("steps", [1, 4, 10, 15, 100, 1000])
def test_the_final_window_is_a_tenth_and_at_least_one(steps):
    assert final_window(steps) == max(1, round(steps / 10))


@pytest.mark.parametrize("bad_from", [None, 3])
def test_records_are_strict_json_and_round_trip(bad_from):
    result = run_cell(Slope(bad_from=bad_from), ADAM, cell())
    text = json.dumps(result.to_record(), allow_nan=False)
    again = CellResult.from_record(json.loads(text))
    np.testing.assert_array_equal(again.curve, result.curve)
    assert replace(again, curve=result.curve, path=result.path) == result


def test_records_keep_the_path():
    result = run_cell(get_task("rastrigin-2", seed=0), ADAM, cell("rastrigin-2", steps=5))
    again = CellResult.from_record(json.loads(json.dumps(result.to_record(), allow_nan=False)))
    assert again.path.tobytes() == result.path.tobytes()
    assert again.path.shape == (6, 2)

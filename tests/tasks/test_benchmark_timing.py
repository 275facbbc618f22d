import time

import pytest
import torch

from tasks import get_task
from tasks.benchmark import Entry, get_entry
from tasks.benchmark.running.timing import STEPS, WARMUP, state_floats, time_entry


def test_a_timing_is_of_a_short_run_at_the_default_rate():
    seen = []

    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            time.sleep(0.002)
            super().step(closure)

    timing = time_entry(get_task("quadratic", seed=0), Entry("slow", Slow, 1e-3), seed=0, content="content")
    assert seen == [1e-3] * (WARMUP + STEPS)
    assert 0.002 <= timing.step_seconds < timing.training_seconds
    assert (timing.task, timing.optimizer, timing.content) == ("quadratic", "slow", "content")


def test_sizes_are_counted():
    timing = time_entry(get_task("digits-mlp-32", seed=0), get_entry("adam"), seed=0, content="")
    assert timing.parameters == 64 * 32 + 32 + 32 * 10 + 10
    assert timing.state_floats == 2.0


def test_what_the_optimizer_raises_is_raised():
    def raises(params, *, lr):
        raise ArithmeticError("unlucky")

    with pytest.raises(ArithmeticError, match="unlucky"):
        time_entry(get_task("quadratic", seed=0), Entry("raises", raises, 1.0), seed=0, content="")


def test_state_is_counted_in_float32_equivalents():
    weight, bias = torch.ones(4, 5, requires_grad=True), torch.ones(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0)
    shared = torch.zeros(5, dtype=torch.float64)
    optimizer.state[weight] = {"half": torch.zeros(4, 5, dtype=torch.bfloat16), "step": torch.tensor(1.0)}
    optimizer.state[bias] = {"nested": [shared, {"again": shared}], "count": 3}
    assert state_floats(optimizer) == pytest.approx((10 + 10) / 30)

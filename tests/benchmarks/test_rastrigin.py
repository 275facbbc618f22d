"""The proof on Rastrigin functions: what it is made of, and a small one of the weights that ship."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.rastrigin import TIE, Options, duel, interval, is_met, remembered
from benchmarks.rastrigin_methods import SETTINGS, Functions, adam, learned, oracle
from tasks.rastrigin import Rastrigin
from tasks.ripple import Instance
from tasks.ripple import oracle as one_by_one


def task_of(functions: Functions, index: int, form: str) -> tuple[Rastrigin, Instance]:
    """A function as a task; its instance is that of the stack."""
    parts = (functions.matrix, functions.target, functions.ripple, functions.offset)
    task = Rastrigin(torch.Generator().manual_seed(0), dimension=functions.start.shape[1], form=form)
    task.instance = Instance(*(part[index] for part in parts))
    return task, task.instance


@pytest.mark.parametrize("form", ["open-l2o", "lois", "standard"])
def test_values_and_gradients_are_those_of_the_task(form: str) -> None:
    functions = Functions(form, 5, 3)
    x = functions.start[..., None]
    values, gradients = functions.value(x), functions.gradient(x)
    for index in range(3):
        task, _ = task_of(functions, index, form)
        leaf = functions.start[index].clone().requires_grad_()
        loss = task.loss({"x": leaf}, task.batch(torch.Generator()))
        loss.backward()
        torch.testing.assert_close(values[index, 0].float(), loss.detach(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(gradients[index, :, 0], leaf.grad, rtol=1e-4, atol=1e-3)


def test_the_functions_are_their_index_s_whatever_their_number() -> None:
    few, many = Functions("open-l2o", 3, 2, restarts=1), Functions("open-l2o", 3, 4, restarts=3)
    assert torch.equal(few.matrix, many.matrix[:2])
    assert torch.equal(few.starts, many.starts[:2, :2])
    assert len({float(value) for value in many.target[:, 0]}) == 4


@pytest.mark.parametrize(
    "setting", [SETTINGS.index(each) for each in SETTINGS if each.rate == SETTINGS[42].rate]
)
def test_the_sweep_is_torchs_adam(setting: int) -> None:
    functions, steps = Functions("lois", 4, 2, restarts=1), 6
    ends = adam(functions, functions.starts, steps)
    rate, beta, cosine = SETTINGS[setting]
    for index in range(2):
        for run in range(2):
            task, _ = task_of(functions, index, "lois")
            x = nn.Parameter(functions.starts[index, run].clone())
            optimizer = torch.optim.Adam([x], lr=rate, betas=(beta, 0.999))
            for step in range(steps):
                fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if cosine else 1.0
                optimizer.param_groups[0]["lr"] = rate * fall
                optimizer.zero_grad()
                task.loss({"x": x}, task.batch(torch.Generator())).backward()
                optimizer.step()
            loss = task.loss({"x": x}, task.batch(torch.Generator())).detach()
            torch.testing.assert_close(ends[index, run, setting].float(), loss, rtol=1e-3, atol=1e-2)


def test_the_oracle_finds_what_the_search_one_by_one_finds(tmp_path: Path) -> None:
    functions = Functions("open-l2o", 4, 4)
    found = oracle(functions, 32)
    for index in range(4):
        _, instance = task_of(functions, index, "open-l2o")
        assert float(found[index]) <= one_by_one(instance, 8, cache=tmp_path) + 1e-3
    assert (oracle(Functions("standard", 3, 2), 16).abs() < 1e-6).all()


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    options = Options(kept=tmp_path, instances=3)
    first = remembered(options, "some", lambda: torch.arange(3.0))
    assert torch.equal(remembered(options, "some", lambda: torch.zeros(3)), first)


def test_a_duel_counts_wins_beyond_rounding_and_gaps_to_both_minima() -> None:
    theirs = torch.linspace(2.0, 3.0, 100, dtype=torch.float64)
    ours = torch.where(torch.arange(100) < 95, 0.5 * theirs, theirs + TIE / 2)
    least, best = torch.zeros(100, dtype=torch.float64), torch.full((100,), -1.0, dtype=torch.float64)
    fought = duel(ours, theirs, least, best)
    assert fought.wins[0] == pytest.approx(0.95)
    assert fought.wins[1] < 0.95 < fought.wins[2]
    assert fought.losses == 0.0
    assert fought.ratio[0] == pytest.approx(float(ours.mean() / theirs.mean()))
    assert fought.ratio_to_best[0] == pytest.approx(float((ours + 1).mean() / (theirs + 1).mean()))
    assert fought.p < 1e-6
    assert not is_met(fought, 10)
    assert interval(lambda rows: ours[rows].mean(-1), 100)[0] == pytest.approx(float(ours.mean()))


@pytest.mark.parametrize("form", ["open-l2o", "lois", "standard"])
def test_the_weights_that_ship_leave_half_of_tuned_adams_gap_and_win(form: str) -> None:
    functions = Functions(form, 10, 40)
    least = oracle(functions, 32)
    theirs = adam(functions, functions.starts, 200)[:, 0]
    best = theirs[:, theirs.mean(0).argmin()]
    ours = learned(functions, "flt-rastrigin", 200)
    assert (ours - least).mean() <= 0.5 * (best - least).mean()
    assert (ours < best - TIE).float().mean() >= 0.8

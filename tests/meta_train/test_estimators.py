"""Estimators on a linear system with a quadratic loss, whose gradient smoothing leaves alone."""

import pytest
import torch
from torch import Tensor

from meta_train.estimators import EVOLUTION, Perturbation, combine, draw, shaped
from meta_train.estimators.backprop import differentiate

THETA, SIGMA, DECAY = 0.7, 0.1, 0.9


def advance(state: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """One inner step and its loss."""
    state = DECAY * state + theta
    return state, state.square() / 2


def truth(horizon: int, episodes: int) -> float:
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    state, total = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(horizon):
        state, loss = advance(state, theta)
        total = total + loss
    return float(torch.autograd.grad(total, theta)[0]) * episodes


def estimate(name: str, *, window: int, horizon: int, windows: int, pairs: int) -> tuple[float, float]:
    """Sum over windows of the estimates, and its standard error; episodes end wherever they do."""
    estimator = EVOLUTION[name]
    generator = torch.Generator().manual_seed(0)
    state, step = torch.zeros(2, pairs), 0
    held, over = Perturbation.none(pairs, 1), torch.ones(pairs, dtype=torch.bool)
    per_pair, total = torch.zeros(pairs), 0.0
    for _ in range(windows):
        drawn = draw(pairs, 1, sigma=SIGMA, generator=generator)
        renewed = estimator.episode(drawn, SIGMA)
        carried = renewed.where(over, estimator.window(held, drawn, SIGMA))
        differences, held = torch.zeros(2, pairs), carried
        part = 0
        for t in range(window):
            if step == horizon or (over.all() and t == 0):
                state, step = torch.zeros_like(state), 0
                if t > 0:
                    part, held = 1, renewed
            noise = (renewed if part else carried).noise[:, 0]
            state, loss = advance(state, THETA + torch.stack([noise, -noise]))
            differences[part] += loss[0] - loss[1]
            step += 1
        over = torch.full((pairs,), step == horizon)
        scores = torch.stack([carried.score, renewed.score])
        gradient, _ = combine(scores, differences)
        total += gradient.item()
        per_pair += 0.5 * (scores[..., 0] * differences).sum(0)
    return total, per_pair.std().item() / pairs**0.5


@pytest.mark.parametrize("name", ["pes", "nres"])
@pytest.mark.parametrize(("window", "horizon", "windows"), [(1, 8, 8), (4, 8, 4), (4, 6, 3), (5, 7, 7)])
def test_over_whole_episodes_it_is_unbiased_wherever_they_end(name, window, horizon, windows) -> None:
    episodes = windows * window // horizon
    assert windows * window == episodes * horizon
    mean, error = estimate(name, window=window, horizon=horizon, windows=windows, pairs=100_000)
    exact = truth(horizon, episodes)
    assert abs(mean - exact) < 4 * error
    assert error < 0.1 * exact


def test_over_windows_that_are_episodes_plain_evolution_is_unbiased() -> None:
    mean, error = estimate("full-es", window=8, horizon=8, windows=2, pairs=100_000)
    assert abs(mean - truth(8, 2)) < 4 * error


def test_over_truncated_windows_plain_evolution_is_biased() -> None:
    """The properties above have teeth, and the bias is what theory says: later windows go unseen."""
    mean, error = estimate("es", window=1, horizon=8, windows=8, pairs=100_000)
    exact = truth(8, 1)
    seen = sum(THETA * (1 - DECAY**step) / (1 - DECAY) for step in range(1, 9))
    assert abs(mean - seen) < 4 * error
    assert mean < 0.5 * exact


@pytest.mark.parametrize("length", [1, 2, 7, 9, 20])
def test_backpropagation_in_pieces_is_exact(length) -> None:
    calls = []

    def segment(theta: Tensor, carried: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        calls.append(torch.is_grad_enabled())
        total = torch.zeros((), dtype=torch.float64)
        for _ in range(start, stop):
            carried, loss = advance(carried, theta[0])
            total = total + loss
        return total, carried

    theta = torch.tensor([THETA], dtype=torch.float64)
    gradient, loss, end = differentiate(segment, theta, torch.zeros((), dtype=torch.float64), length)
    torch.testing.assert_close(gradient.item(), truth(length, 1))
    assert not loss.requires_grad
    assert not end.requires_grad
    assert len(calls) <= 2 * (length**0.5 + 2)


def test_backpropagation_takes_what_it_starts_from_as_constant() -> None:
    """Truncation: the second half alone sees nothing of the first."""

    def segment(theta: Tensor, carried: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        total = torch.zeros(())
        for _ in range(start, stop):
            carried, loss = advance(carried, theta[0])
            total = total + loss
        return total, carried

    theta = torch.tensor([THETA])
    first, _, middle = differentiate(segment, theta, torch.zeros(()), 4)
    second, _, _ = differentiate(segment, theta, middle, 4)
    assert 0 < (first + second).item() < 0.9 * truth(8, 1)


def test_a_pair_whose_difference_is_not_finite_counts_as_nothing() -> None:
    scores = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    differences = torch.tensor([[float("nan"), 1.0]])
    gradient, variance = combine(scores, differences)
    torch.testing.assert_close(gradient, 0.5 * torch.tensor([3.0, 4.0]) / 2)
    assert torch.isfinite(variance).all()


def test_variance_is_that_of_the_mean_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 1, 20, 3, generator=generator)
    differences = torch.randn(4000, 1, 20, generator=generator)
    estimates = [combine(score, difference) for score, difference in zip(scores, differences, strict=True)]
    measured = torch.stack([gradient for gradient, _ in estimates]).var(0)
    told = torch.stack([variance for _, variance in estimates]).mean(0)
    torch.testing.assert_close(told, measured, rtol=0.1, atol=0)


def test_shaping_keeps_signs_and_order_and_forgets_sizes() -> None:
    differences = torch.tensor([[3.0, -1e9, 0.0], [0.5, -2.0, 1.0]])
    torch.testing.assert_close(
        shaped(differences), torch.tensor([[9 / 10, -1.0, 0.0], [6 / 10, -8 / 10, 7 / 10]])
    )
    torch.testing.assert_close(shaped(10 * differences), shaped(differences))
    assert torch.equal(shaped(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_over_whole_episodes_shaping_ranks_all_segments() -> None:
    real = torch.randn(37, generator=torch.Generator().manual_seed(0))
    differences = torch.stack([real, torch.zeros(37)])
    ranks = torch.argsort(torch.argsort(differences.abs().flatten(), stable=True)).reshape(2, -1).float() + 1
    assert torch.equal(shaped(differences), differences.sign() * ranks / (2 * 37))


def test_segments_that_do_not_exist_leave_shaping_as_it_is() -> None:
    real = torch.tensor([2.0, -1.0, 2.0, 0.5])
    expected = torch.tensor([7 / 8, -6 / 8, 1.0, 5 / 8])  # of equals the first ranks lower
    for zeros in (0, 1, 4, 100):
        assert torch.equal(shaped(torch.cat([real, torch.zeros(zeros)]))[:4], expected)
    many = torch.cat([torch.ones(50), torch.zeros(50)])
    assert torch.equal(shaped(many)[:50], (50 + torch.arange(1.0, 51.0)) / 100)


def test_draws_depend_on_the_generator_alone() -> None:
    draws = [draw(3, 5, sigma=0.01, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (3, 5)

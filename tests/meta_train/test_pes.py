import torch

from meta_train.estimators import pes


def quadratic_episode(theta, noise, resets):
    """Losses of s <- 0.9 s + theta, loss s^2 / 2, over windows of one step, for one member of every pair."""
    state = torch.zeros(noise.shape[1])
    losses = []
    for window, perturbation in enumerate(noise):
        if resets[window]:
            state = torch.zeros_like(state)
        state = 0.9 * state + theta + perturbation
        losses.append(state.square() / 2)
    return torch.stack(losses)


def test_estimate_is_unbiased_over_whole_episodes_with_a_reset_inside():
    theta, sigma, windows, pairs = 0.7, 0.1, 8, 400_000
    resets = [window in (0, 5) for window in range(windows)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([pes.draw(pairs, 1, sigma=sigma, generator=generator)[:, 0] for _ in range(windows)])
    plus = quadratic_episode(theta, noise, resets)
    minus = quadratic_episode(theta, -noise, resets)

    accumulated = torch.zeros(pairs, 1)
    per_pair = torch.zeros(pairs)
    total = 0.0
    for window in range(windows):
        fresh = torch.full((pairs,), resets[window])
        accumulated = pes.accumulate(accumulated, noise[window][:, None], fresh)
        losses = torch.stack([plus[window], minus[window]])
        total += pes.estimate(accumulated, losses, sigma=sigma).item()
        per_pair += accumulated[:, 0] * (losses[0] - losses[1]) / (2 * sigma**2)

    parameter = torch.tensor(theta, requires_grad=True)
    exact = quadratic_episode(parameter, torch.zeros(windows, 1), resets).sum()
    (truth,) = torch.autograd.grad(exact, parameter)
    error = per_pair.std().item() / pairs**0.5
    assert abs(total - truth.item()) < 4 * error
    assert error < 0.05 * truth.item()


def test_forgetting_the_accumulator_would_be_biased():
    """The property above has teeth: with each window's own noise alone the estimate is far off."""
    theta, sigma, windows, pairs = 0.7, 0.1, 8, 100_000
    generator = torch.Generator().manual_seed(1)
    noise = sigma * torch.randn(windows, pairs, generator=generator)
    resets = [window == 0 for window in range(windows)]
    plus, minus = (quadratic_episode(theta, sign * noise, resets) for sign in (1, -1))
    truncated = sum(
        pes.estimate(noise[w][:, None], torch.stack([plus[w], minus[w]]), sigma=sigma).item()
        for w in range(windows)
    )
    parameter = torch.tensor(theta, requires_grad=True)
    (truth,) = torch.autograd.grad(
        quadratic_episode(parameter, torch.zeros(windows, 1), resets).sum(), parameter
    )
    assert truncated < 0.5 * truth.item()


def test_a_pair_with_a_loss_that_is_not_finite_counts_as_nothing():
    accumulated = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    losses = torch.tensor([[float("nan"), 2.0], [1.0, 1.0]])
    gradient = pes.estimate(accumulated, losses, sigma=1.0)
    torch.testing.assert_close(gradient, torch.tensor([3.0, 4.0]) / 4)


def test_draws_depend_on_the_generator_alone():
    draws = [pes.draw(3, 5, sigma=0.01, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (3, 5)

from math import log

import pytest
import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.memory import Readout
from learned_opt.tokens import MAX_RATIO, Tokens, even_features, odd_features, shape_features, tokenise

LAYOUT = Layout([(4, 5), (6,), ()])
SIZE = 27


def draw(seed: int, *shape: int, heads: int = 3) -> tuple[Readout, Tensor, Tensor]:
    """A readout, a gradient and parameters."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(heads, SIZE, generator=generator)
    second = torch.rand(SIZE, generator=generator) + 1e-3
    return Readout(first, second), *torch.randn(2, SIZE, generator=generator)


def tokens_of(readout: Readout, grad: Tensor, param: Tensor) -> Tokens:
    return tokenise(readout, grad, param, LAYOUT, epsilon=1e-8)


@pytest.mark.parametrize("heads", [1, 3])
def test_shapes_are_those_announced(heads: int) -> None:
    tokens = tokens_of(*draw(0, heads=heads))
    assert tokens.odd.shape == (odd_features(heads), SIZE)
    assert tokens.even.shape == (even_features(heads), SIZE)
    assert tokens.log_rms.shape == (heads, 3)


def test_those_that_are_not_factored_are_a_row_less_and_the_same_beside() -> None:
    drawn = draw(0)
    factored, plain = tokens_of(*drawn), tokenise(*drawn, LAYOUT, epsilon=1e-8, factored=False)
    assert plain.odd.shape == (odd_features(3, factored=False), SIZE)
    assert plain.even.shape == (even_features(3, factored=False), SIZE)
    assert torch.equal(plain.odd, factored.odd[:-1])
    assert torch.equal(plain.even, torch.cat([factored.even[:7], factored.even[8:]]))


def test_shapes_are_told_last() -> None:
    readout, grad, param = draw(0)
    told = tokenise(readout, grad, param, LAYOUT, epsilon=1e-8, shapes=shape_features(LAYOUT, grad))
    expected = torch.tensor([[0.0] * 20 + [1.0] * 7, [log(20) / 10] * 20 + [log(6) / 10] * 6 + [0.0]])
    torch.testing.assert_close(told.even[-2:], expected)


def test_the_first_is_adams_direction() -> None:
    readout, grad, param = draw(1)
    tokens = tokens_of(readout, grad, param)
    expected = (readout.first[0] / readout.second.sqrt()).clamp(-MAX_RATIO, MAX_RATIO)
    torch.testing.assert_close(tokens.odd[0], expected)


def test_odd_features_flip_and_even_ones_do_not() -> None:
    readout, grad, param = draw(2)
    plain = tokens_of(readout, grad, param)
    flipped = tokens_of(Readout(-readout.first, readout.second), -grad, param)
    assert torch.equal(flipped.odd, -plain.odd)
    assert torch.equal(flipped.even, plain.even)
    assert torch.equal(flipped.log_rms, plain.log_rms)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_the_scale_of_gradients_and_of_parameters_is_not_seen(factor: float) -> None:
    readout, grad, param = draw(3)
    plain = tokens_of(readout, grad, param)
    scaled = tokens_of(
        Readout(factor * readout.first, factor**2 * readout.second), factor * grad, param / factor
    )
    torch.testing.assert_close(scaled[:3], plain[:3])
    torch.testing.assert_close(scaled.sizes, plain.sizes * torch.tensor([[factor], [1 / factor]]))


@pytest.mark.parametrize("second", [0.0, 1e-30, 1e30])
def test_features_are_finite_and_bounded(second: float) -> None:
    readout, grad, param = draw(4)
    param[0] = 1e15
    tokens = tokens_of(Readout(readout.first, torch.full((SIZE,), second)), grad, param)
    assert tokens.odd.abs().max() <= MAX_RATIO
    assert tokens.even.min() >= -2.5
    assert tokens.even.max() <= 1.2
    assert tokens.log_rms.min() >= -5


def test_without_any_gradient_odd_features_are_zero() -> None:
    zeros = Readout(torch.zeros(3, SIZE), torch.zeros(SIZE))
    tokens = tokens_of(zeros, torch.zeros(SIZE), torch.zeros(SIZE))
    assert not tokens.odd.any()
    assert tokens.even.isfinite().all()

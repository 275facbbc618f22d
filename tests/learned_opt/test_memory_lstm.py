"""The recurrent cell against itself written out for one parameter."""

import math

import pytest
import torch

from learned_opt.memory import LSTMConfig
from learned_opt.memory.content import preprocess
from tests.learned_opt.memories import draw, perturbed, stream


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_cell_is_what_its_formula_says() -> None:
    memory = LSTMConfig(unit_betas=(0.9,), heads=2).build()
    meta, grads = perturbed(memory), draw(25, 1)
    numbers = {name: tensor.flatten().tolist() for name, tensor in meta.items()}
    rates = [math.exp(numbers[f"memory.log_{name}decay_rate"][0]) for name in ("", "second_")]
    first, second, cell, unit = 0.0, 0.0, 0.0, 0.0
    for step, grad in enumerate(grads[:, 0].tolist(), start=1):
        gains = [math.expm1(-rate) / math.expm1(-rate * step) for rate in rates]
        first, second = first + gains[0] * (grad - first), second + gains[1] * (grad**2 - second)
        ratio = grad / math.sqrt(second)
        size, sign = math.log(abs(ratio)) / 10, math.copysign(1.0, ratio)
        assert abs(ratio) > math.exp(-10)
        weights = [numbers["memory.gate_weight"][3 * row : 3 * row + 3] for row in range(3)]
        take, keep, show = (
            logistic(row[0] * size + row[1] * unit * sign + row[2] * abs(unit) + bias)
            for row, bias in zip(weights, numbers["memory.gate_bias"], strict=True)
        )
        candidate = math.tanh(
            numbers["memory.candidate_weight"][0] * sign + numbers["memory.recurrent_weight"][0] * unit
        )
        cell = keep * cell + take * candidate
        unit = show * math.tanh(cell)
    state, readout = stream(memory, meta, grads)
    assert state[:, 0].tolist() == pytest.approx([first, cell, unit, second], rel=1e-9)
    output = [weight * unit * math.sqrt(second) for weight in numbers["memory.output_weight"]]
    assert readout.first[:, 0].tolist() == pytest.approx([first + output[0], output[1]], rel=1e-9)


def test_cells_start_as_averages_of_their_factors() -> None:
    """With gates that hear nothing: their biases alone."""
    memory = LSTMConfig(unit_betas=(0.9, 0.99)).build()
    meta = memory.init_meta(torch.float64)
    meta["memory.gate_weight"].zero_()
    meta["memory.recurrent_weight"].zero_()
    steps = 20
    state, _ = stream(memory, meta, torch.ones(steps, 1, dtype=torch.float64))
    candidate = meta["memory.candidate_weight"][:, 0].tanh()
    beta = torch.tensor([0.9, 0.99], dtype=torch.float64)
    torch.testing.assert_close(state[1:3, 0], candidate * (1 - beta**steps))


def test_preprocessing_is_that_of_andrychowicz() -> None:
    size, sign = preprocess(torch.tensor([2.0, -0.5, 1e-5, 0.0], dtype=torch.float64))
    expected = [math.log(2) / 10, math.log(0.5) / 10, -1.0, -1.0]
    assert size.tolist() == pytest.approx(expected)
    assert sign.tolist() == pytest.approx([1.0, -1.0, math.exp(10) * 1e-5, 0.0])


def test_the_seed_draws_the_gates() -> None:
    memory = LSTMConfig().build()
    one, two = (memory.init_meta(torch.float32, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(one["memory.gate_weight"], two["memory.gate_weight"])
    assert torch.equal(
        memory.init_meta(torch.float32)["memory.gate_weight"],
        memory.init_meta(torch.float32)["memory.gate_weight"],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "0.0 is outside"),
        ({"unit_betas": ()}, "betas is empty"),
        ({"unit_betas": (0.5, 1.0)}, "1.0 is outside"),
        ({"heads": 0}, "heads is 0"),
    ],
)
def test_configurations_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**options)

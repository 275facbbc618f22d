import io
import math

import pytest
import torch
from torch import Tensor

from kernattn.ssm import (
    DiagonalSystem,
    ModeState,
    advance_modes,
    causal_ssm,
    dense_ssm,
    ssm_state,
    ssm_step,
    zero_order_hold,
)

BATCH, HEADS, CHANNELS, MODES = 2, 3, 4, 5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_system(dtype: torch.dtype = torch.float64) -> DiagonalSystem:
    generator = torch.Generator().manual_seed(0)
    return DiagonalSystem.lin(HEADS, CHANNELS, MODES, generator=generator, dtype=dtype)


def values(length: int, seed: int = 1) -> Tensor:
    return normal(BATCH, HEADS, length, CHANNELS, seed=seed)


def streamed(value: Tensor, system: DiagonalSystem, state: ModeState) -> tuple[Tensor, ModeState]:
    outputs = []
    for token in value.unbind(2):
        output, state = ssm_step(state, token, system)
        outputs.append(output)
    return torch.stack(outputs, dim=2), state


def test_zero_order_hold_solves_the_equation_of_a_held_input() -> None:
    """Against many small Euler steps of ``x' = A x + u``."""
    mode = torch.complex(torch.tensor(-0.5), torch.tensor(3.0)).to(torch.complex128)
    size, pieces = 0.7, 200_000
    factor = (1 + size / pieces * mode) ** torch.arange(pieces + 1)
    step = zero_order_hold(*(torch.tensor(x, dtype=torch.float64) for x in (0.5, 3.0, size)))
    assert torch.complex(step.keep_real, step.keep_imag).sub(factor[-1]).abs() < 1e-4
    assert torch.complex(step.write_real, step.write_imag).sub(size / pieces * factor[:-1].sum()).abs() < 1e-4


def test_zero_order_hold_is_exact_for_tiny_steps_in_float32() -> None:
    wide, narrow = (
        zero_order_hold(*(torch.tensor(x, dtype=dtype) for x in (0.5, 0.1, 1e-6)))
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(narrow.write_real.double(), wide.write_real, rtol=1e-6, atol=0)
    assert wide.write_real == pytest.approx(1e-6, rel=1e-5)


def test_a_constant_input_settles_at_minus_one_over_a() -> None:
    mode = complex(-0.5, 2.0)
    step = zero_order_hold(*(torch.tensor(x, dtype=torch.float64) for x in (0.5, 2.0, 0.3)))
    real = imag = torch.zeros((), dtype=torch.float64)
    for _ in range(300):
        real, imag = advance_modes(real, imag, torch.ones((), dtype=torch.float64), step)
    assert complex(float(real), float(imag)) == pytest.approx(-1 / mode, rel=1e-12)


def test_the_kernel_is_the_response_to_an_impulse() -> None:
    system = a_system()
    impulse = torch.zeros(1, HEADS, 20, CHANNELS, dtype=torch.float64)
    impulse[:, :, 0] = 1.0
    output, _ = streamed(impulse, system, ssm_state(impulse, system))
    torch.testing.assert_close(output[0].mT, system.kernel(torch.arange(20)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("length", [1, 2, 37, 256])
def test_convolution_and_stream_are_the_definition(length: int) -> None:
    system, value = a_system(), values(length)
    expected = dense_ssm(value, system)
    output, last = causal_ssm(value, system)
    stream, end = streamed(value, system, ssm_state(value, system))
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(stream, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, end, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_it_goes_on_from_a_saved_state(cut: int) -> None:
    system, value = a_system(), values(41)
    whole, end = causal_ssm(value, system)
    _, state = causal_ssm(value[:, :, :cut], system)
    buffer = io.BytesIO()
    torch.save(tuple(state), buffer)
    buffer.seek(0)
    state = ModeState(*torch.load(buffer))
    for rest, last in (
        causal_ssm(value[:, :, cut:], system, state=state),
        streamed(value[:, :, cut:], system, state),
    ):
        torch.testing.assert_close(rest, whole[:, :, cut:], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(last, end, rtol=1e-10, atol=1e-12)


def test_no_tokens_leave_a_state_as_it_is() -> None:
    system, value = a_system(), values(5)
    _, state = causal_ssm(value, system)
    output, last = causal_ssm(value[:, :, :0], system, state=state)
    assert output.shape == (BATCH, HEADS, 0, CHANNELS)
    torch.testing.assert_close(last, state, rtol=0, atol=0)


def test_a_batch_may_be_empty() -> None:
    system, value = a_system(), values(5)[:0]
    output, state = causal_ssm(value, system)
    assert output.shape == value.shape
    assert state.real.shape == (0, HEADS, CHANNELS, MODES)


def test_later_tokens_leave_earlier_outputs_to_the_bit() -> None:
    system, value = a_system(), values(30)
    changed = value.clone()
    changed[:, :, 20:] += 1.0
    before, after = (streamed(each, system, ssm_state(each, system))[0] for each in (value, changed))
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])


def test_a_row_does_not_see_the_others() -> None:
    system, value = a_system(), values(30)
    alone, _ = causal_ssm(value[:1], system)
    torch.testing.assert_close(causal_ssm(value, system)[0][:1], alone, rtol=1e-13, atol=1e-14)


def test_gradients_of_all_three_forms_agree() -> None:
    grads = []
    for form in (
        lambda value, system: dense_ssm(value, system),
        lambda value, system: causal_ssm(value, system)[0],
        lambda value, system: streamed(value, system, ssm_state(value, system))[0],
    ):
        leaves = [part.clone().requires_grad_() for part in vars(a_system()).values()]
        value = values(17).requires_grad_()
        (form(value, DiagonalSystem(*leaves)) * values(17, seed=2)).sum().backward()
        grads.append([value.grad, *(leaf.grad for leaf in leaves)])
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_gradcheck() -> None:
    leaves = [part.clone().requires_grad_() for part in vars(a_system()).values()]
    value = normal(1, HEADS, 4, CHANNELS, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value, *parts: causal_ssm(value, DiagonalSystem(*parts))[0], (value, *leaves)
    )


def test_it_starts_as_s4d_lin() -> None:
    system = a_system()
    assert (system.rate == 0.5).all()
    torch.testing.assert_close(system.frequency[0, 0], math.pi * torch.arange(MODES, dtype=torch.float64))
    many = DiagonalSystem.lin(50, 40, 1, generator=torch.Generator().manual_seed(0)).step_size.log10()
    assert -3 <= many.min() < -2.99
    assert -1.01 < many.max() <= -1
    assert many.mean() == pytest.approx(-2, abs=0.05)


def test_half_precision_works_in_float32() -> None:
    system, value = a_system(torch.float32), values(50).bfloat16()
    output, state = causal_ssm(value, system)
    assert output.dtype == torch.bfloat16
    assert state.real.dtype == torch.float32
    expected = dense_ssm(value.float(), system)
    torch.testing.assert_close(output.float(), expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


def test_a_million_steps_stay_bounded() -> None:
    """Phases are those of float64 at any distance."""
    system = a_system(torch.float32)
    wide = DiagonalSystem(*(part.double() for part in vars(system).values()))
    lag = torch.tensor([0, 1000, 10**6])
    torch.testing.assert_close(system.kernel(lag).double(), wide.kernel(lag), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4), r"\[B, H, L, V\]"),
        ((2, 5, 7, 4), "H = 3 and value 5"),
        ((2, 3, 7, 6), "V = 4 and value 6"),
    ],
)
def test_values_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_ssm(torch.zeros(shape), a_system())


def test_systems_that_cannot_be_are_refused() -> None:
    one = torch.ones(1, 1, 2)
    with pytest.raises(ValueError, match=r"\[H, V, S\]"):
        DiagonalSystem(one[0], one, one, one, one)
    with pytest.raises(ValueError, match="that broadcast"):
        DiagonalSystem(one, torch.ones(1, 1, 3), one, one, one)
    with pytest.raises(ValueError, match="at least 1 each"):
        DiagonalSystem.lin(1, 0, 1)
    with pytest.raises(ValueError, match=r"0 < shortest <= longest"):
        DiagonalSystem.lin(1, 1, 1, shortest=0.0)

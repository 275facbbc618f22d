"""Causal linear attention against the plain-PyTorch references of flash-linear-attention (``fla-core``)."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import causal_linear_attention, linear_attention_step
from kernattn.linear import causal_sums
from tests.kernattn.comparing import assert_near, with_gradients


def load(name: str) -> Any:
    """A file of references, without the kernels around it, or skipped tests that say why."""
    package = importlib.util.find_spec("fla")
    if package is None or not package.submodule_search_locations:
        pytest.skip("fla-core is not installed", allow_module_level=True)
    path = Path(package.submodule_search_locations[0]) / "ops" / name / "naive.py"
    spec = importlib.util.spec_from_file_location(f"fla_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        pytest.skip(f"fla-core cannot be imported here: {error!r}", allow_module_level=True)
    return module


linear, decayed = load("linear_attn"), load("simple_gla")
TOLERANCE = 3e-5


def inputs(length: int, *, batch: int = 2, heads: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(batch, heads, length, width, generator=generator) for width in (8, 8, 5))
    return [query.exp(), key.exp(), value]


def theirs(function: Callable[..., Any], **options: Any) -> Callable[..., Tensor]:
    """Their function on our axes, ``[B, H, L, .]`` in place of ``[B, L, H, .]``."""

    def call(*tensors: Tensor) -> Tensor:
        output = function(*(x.transpose(1, 2) for x in tensors), scale=1.0, **options)
        output = output[0] if isinstance(output, tuple) else output
        return output.transpose(1, 2)

    return call


@pytest.mark.parametrize("form", ["naive_recurrent_linear_attn", "naive_chunk_linear_attn"])
@pytest.mark.parametrize("chunk", [7, 64])
def test_normalised_attention(form: str, chunk: int) -> None:
    arguments = inputs(128)
    actual = with_gradients(lambda *x: causal_linear_attention(*x, chunk=chunk)[0], *arguments)
    reference = theirs(getattr(linear, form), normalize=True)
    assert_near(actual, with_gradients(reference, *arguments), TOLERANCE)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 40),
    chunk=st.integers(1, 45),
    seed=st.integers(0, 2**31),
)
def test_sums_on_fresh_inputs(batch: int, heads: int, length: int, chunk: int, seed: int) -> None:
    arguments = inputs(length, batch=batch, heads=heads, seed=seed)
    actual = with_gradients(lambda *x: causal_sums(*x, chunk=chunk)[0], *arguments)
    assert_near(actual, with_gradients(theirs(linear.naive_recurrent_linear_attn), *arguments), TOLERANCE)


def test_states() -> None:
    arguments = inputs(40)
    head, tail = ([x[:, :, part] for x in arguments] for part in (slice(25), slice(25, None)))
    _, state = causal_sums(*head)
    output, after = causal_sums(*tail, state=state, chunk=7)
    expected, final = linear.naive_recurrent_linear_attn(
        *(x.transpose(1, 2) for x in tail), scale=1.0, initial_state=state, output_final_state=True
    )
    assert_near([output, after], [expected.transpose(1, 2), final], TOLERANCE)


def test_a_stream() -> None:
    arguments = inputs(30)
    state = torch.zeros(2, 3, 8, 6)
    expected = theirs(linear.naive_recurrent_linear_attn, normalize=True)(*arguments)
    for t in range(30):
        output, state = linear_attention_step(state, *(x[:, :, t] for x in arguments))
        assert_near([output], [expected[:, :, t]], TOLERANCE)


@pytest.mark.parametrize("chunk", [7, 64])
def test_sums_that_decay(chunk: int) -> None:
    arguments = [*inputs(128), torch.tensor([0.0, 0.1, 0.7])]

    def ours(query: Tensor, key: Tensor, value: Tensor, rate: Tensor) -> Tensor:
        return causal_sums(query, key, value, decay_rate=rate, chunk=chunk)[0]

    def reference(query: Tensor, key: Tensor, value: Tensor, rate: Tensor) -> Tensor:
        log_gate = -rate[:, None].expand(2, 3, 128)
        return theirs(decayed.naive_chunk_simple_gla)(query, key, value, log_gate)

    assert_near(with_gradients(ours, *arguments), with_gradients(reference, *arguments), TOLERANCE)

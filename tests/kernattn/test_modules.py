import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernattn import nprf_attention, relative_log_mask, softmax_attention
from kernattn.modules import (
    METHODS,
    CausalLanguageModel,
    KernelAttention,
    Layout,
    PointSetModel,
    PositionFunction,
    make_mixer,
    redraw,
)

each = pytest.mark.parametrize("method", METHODS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def tokens(length: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, ``[2, 3, length, 4]``."""
    return tuple(normal(2, 3, length, 4, seed=seed) for seed in range(3))


def layer(method: str, **options: Any) -> KernelAttention:
    torch.manual_seed(0)
    return KernelAttention(12, 3, qkv_bias=True, method=method, **options)


@each
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 9])
def test_a_layer_maps_tokens_and_learns_all_it_has(method: str, causal: bool, length: int) -> None:
    attention = layer(method, causal=causal)
    x = normal(2, length, 12).requires_grad_()
    output = attention(x)
    assert output.shape == x.shape
    output.square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert x.grad is not None
    assert x.grad.isfinite().all()


@each
def test_the_future_changes_nothing_in_a_causal_layer(method: str) -> None:
    attention = layer(method, causal=True)
    x = normal(2, 20, 12)
    before = attention(x)
    x[:, 11] += 1
    after = attention(x)
    tolerance = 1e-5 if method in ("s4d", "softmax") else 0
    assert (before[:, :11] - after[:, :11]).abs().max() <= tolerance
    assert (before[:, 11] - after[:, 11]).abs().max() > 1e-4


@each
def test_rows_and_padding_change_nothing(method: str) -> None:
    attention = layer(method)
    x = normal(2, 14, 12)
    keep = torch.ones(2, 14, dtype=torch.bool)
    keep[1, 9:] = False
    before = attention(x, keep)
    x[1, 9:] = 7 * normal(5, 12, seed=1)
    x[0] *= -1
    after = attention(x, keep[:, None, None])
    torch.testing.assert_close(before[1, :9], after[1, :9])
    nothing = attention(x, torch.zeros_like(keep))
    assert torch.equal(nothing, attention.proj.bias.expand_as(x))


@each
def test_padding_on_the_left_hides_no_future(method: str) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(method, 3, 4, Layout(), causal=True)
    query, key, value = tokens(10)
    keep = torch.ones(2, 10, dtype=torch.bool)
    keep[0, :4] = False
    before = mixer(query, key, value, mask=keep)
    assert before[0, :, :4].abs().max() <= (1e-6 if method == "s4d" else 0)  # by the FFT
    key[:, :, 6] += 20
    value[:, :, 6] += 20
    after = mixer(query, key, value, mask=keep)
    torch.testing.assert_close(after[:, :, :6], before[:, :, :6])


@each
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("prefix", [0, 2])
def test_no_tokens_beside_the_prefix(method: str, causal: bool, prefix: int) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(method, 3, 4, Layout(prefix=prefix), causal=causal)
    value = normal(2, 3, prefix, 4).requires_grad_()
    output = mixer(value, value, value)
    assert output.shape == value.shape
    output.sum().backward()


@each
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", [Layout(), Layout(prefix=2), Layout.patches(3, 4, prefix=1)])
def test_the_positions_of_the_layout_may_be_given(method: str, causal: bool, layout: Layout) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(method, 3, 4, layout, causal=causal)
    query, key, value = tokens(12 + layout.prefix)
    position = layout.positions(12 + layout.prefix, query.device)
    if method == "nprf":
        with pytest.raises(ValueError, match="takes its positions from the layout"):
            mixer(query, key, value, position=position)
        return
    expected = mixer(query, key, value)
    for given in (position, position.float(), position.expand(2, -1, -1)):
        torch.testing.assert_close(mixer(query, key, value, position=given), expected)


@each
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision(method: str, causal: bool) -> None:
    attention = layer(method, causal=causal)
    x = normal(2, 9, 12)
    exact = attention(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attention(x)
    half = attention.bfloat16()(x.bfloat16())
    for output in (inside, half):
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), exact, rtol=0.1, atol=0.1)


@each
def test_double_precision(method: str) -> None:
    attention = layer(method).double()
    x = normal(2, 9, 12).double().requires_grad_()
    output = attention(x)
    assert output.dtype == torch.float64
    output.sum().backward()
    torch.testing.assert_close(layer(method)(x.float()).double(), output, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_flt_approaches_exact_attention_with_the_same_position_function(causal: bool) -> None:
    layout = Layout.patches(4, 4, prefix=1)
    torch.manual_seed(3)
    exact = KernelAttention(8, 2, method="softmax", layout=layout, causal=causal)
    x = normal(1, 17, 8, seed=3)
    errors = []
    for features in (64, 4096):
        options = {"features": features, "samples": features // 4, "orthogonal": False}
        flt = KernelAttention(8, 2, method="flt", layout=layout, causal=causal, **options)
        flt.qkv, flt.proj = exact.qkv, exact.proj
        flt.mixer.position.load_state_dict(exact.mixer.position.state_dict())
        total = 0.0
        for seed in range(4):
            flt.redraw(generator(seed))
            total += float((flt(x) - exact(x)).detach().square().mean())
        errors.append(math.sqrt(total / 4))
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("layout", [Layout(), Layout(prefix=2), Layout.patches(3, 4), Layout.patches(2, 6)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, "keys", "pairs", "bias"])
def test_exact_mixer_is_the_reference(layout: Layout, causal: bool, masked: str | None) -> None:
    torch.manual_seed(0)
    mixer = make_mixer("softmax", 3, 4, layout, causal=causal)
    length = 12 + layout.prefix
    query, key, value = (x.requires_grad_() for x in tokens(length))
    position = layout.positions(length, query.device)
    prefix = (layout.prefix, 0) * 2
    log_mask = nn.functional.pad(relative_log_mask(mixer.position.mixture(), position), prefix)[None]
    decay = mixer.decay() if causal else None
    mask = key_mask = None
    if masked == "keys":
        mask = key_mask = normal(2, length, seed=4) > 0.5
        mask[0], mask[1, :3] = False, False
    elif masked == "pairs":
        mask = normal(2, 3, length, length, seed=4) > 0.5
        mask[0, 1] = False
        log_mask = log_mask.masked_fill(~mask, -torch.inf)
    elif masked == "bias":
        mask = normal(1, 1, length, length, seed=4)
        mask[:, :, 4, :7] = -torch.inf
        log_mask = log_mask + mask
    expected = softmax_attention(
        query, key, value, log_mask=log_mask, decay_rate=decay, causal=causal, key_mask=key_mask
    )
    inputs = [query, key, value, *mixer.parameters()]
    output = mixer(query, key, value, mask=mask)
    torch.testing.assert_close(output, expected)
    weight = normal(*output.shape, seed=5)
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (output, expected)]
    torch.testing.assert_close(*gradients)


def test_exact_attention_reads_nothing_of_padding() -> None:
    torch.manual_seed(0)
    mixer = make_mixer("softmax", 3, 4, Layout())
    query, key, value = tokens(9)
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1, 6:] = False
    before = mixer(query, key, value, mask=keep)
    key[1, :, 6:], value[1, :, 6:] = torch.nan, torch.inf
    assert torch.equal(mixer(query, key, value, mask=keep), before)


def test_tables_with_and_without_a_class_token_agree() -> None:
    query, key, value = (normal(2, 3, 9, 4, seed=seed) for seed in range(3))
    torch.manual_seed(0)
    mixer = METHODS["nprf"](3, 4, Layout.patches(3, 3))
    bias = normal(*mixer.log_bias.shape, seed=5)
    with torch.no_grad():
        mixer.log_bias.copy_(bias)
    expected = nprf_attention(query, key, value, log_bias=bias, projection=mixer.projection)
    torch.testing.assert_close(mixer(query, key, value), expected)
    prefixed = METHODS["nprf"](3, 4, Layout.patches(3, 3, prefix=1))
    prefixed.load_state_dict(mixer.state_dict())
    padded = [torch.cat([normal(2, 3, 1, 4, seed=9), x], dim=2) for x in (query, key, value)]
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[:, 0] = False
    torch.testing.assert_close(prefixed(*padded, mask=mask)[:, :, 1:], expected)


@each
def test_redrawing_is_repeatable_and_saved(method: str) -> None:
    attention = layer(method)
    x = normal(2, 9, 12)
    outputs = []
    for seed in (5, 6, 5):
        redraw(attention, generator(seed))
        outputs.append(attention(x))
    assert torch.equal(outputs[0], outputs[2])
    if method not in ("softmax", "s4d"):
        assert not torch.equal(outputs[0], outputs[1])
    other = layer(method)
    redraw(other, generator(7))
    other.load_state_dict(attention.state_dict())
    assert torch.equal(other(x), outputs[2])
    assert torch.equal(copy.deepcopy(attention)(x), outputs[2])


@each
def test_language_model(method: str) -> None:
    torch.manual_seed(0)
    model = CausalLanguageModel(11, dim=16, num_heads=2, depth=1, method=method)
    tokens = torch.randint(11, (2, 30), generator=generator(0))
    before = model(tokens)
    assert before.shape == (2, 30, 11)
    tokens[:, 20] = (tokens[:, 20] + 1) % 11
    after = model(tokens)
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=0, atol=1e-5)
    assert (before[:, 20] - after[:, 20]).abs().max() > 1e-3


@pytest.mark.parametrize("method", [m for m in METHODS if m != "nprf"])
def test_points_may_be_moved_and_turned_together(method: str) -> None:
    torch.manual_seed(0)
    options = {"isotropic": True} if method in ("softmax", "flt") else {}
    model = PointSetModel(2, 3, dim=16, num_heads=2, depth=1, method=method, **options)
    x, position = normal(2, 8, 2), normal(2, 8, 3, seed=1)
    before = model(x, position)
    assert before.shape == (2, 8, 3)
    moved = model(x, position + torch.tensor([3.0, -2.0, 1.0]))
    if method == "flt":
        assert (moved - before).abs().max() < 0.3  # positive features are invariant in expectation alone
    else:
        torch.testing.assert_close(moved, before, rtol=1e-4, atol=1e-4)
    if method == "softmax":
        turn = torch.linalg.qr(normal(3, 3, seed=2))[0]
        torch.testing.assert_close(model(x, position @ turn), before, rtol=1e-4, atol=1e-4)


def test_amplitude_is_held_at_its_limit() -> None:
    function = PositionFunction(3, Layout(), limit=0.5)
    with torch.no_grad():
        function.amplitude.copy_(normal(*function.amplitude.shape))
    assert (function.mixture().amplitude() <= 0.5 + 1e-5).all()
    assert torch.equal(function.sample(4, 3).frequency, function.sample(4, 3).frequency)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"method must be one of softmax, .*, got 'linear'"):
        KernelAttention(12, 3, method="linear")
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 12 and 5"):
        KernelAttention(12, 5)
    with pytest.raises(ValueError, match=r"attn_drop must be 0: .* got 0.1"):
        KernelAttention(12, 3, attn_drop=0.1)
    with pytest.raises(ValueError, match="norm_layer must be given"):
        KernelAttention(12, 3, qk_norm=True)
    with pytest.raises(ValueError, match=r"x must be \[B, L, dim\], got shape \[9, 12\]"):
        layer("flt")(normal(9, 12))
    with pytest.raises(ValueError, match="is_causal needs a layer made with causal=True"):
        layer("flt")(normal(2, 9, 12), is_causal=True)
    with pytest.raises(ValueError, match=r"attn_mask must be boolean .* got torch.float32"):
        layer("flt")(normal(2, 9, 12), torch.zeros(9, 9))
    with pytest.raises(ValueError, match="expected 1 tokens without position and 16 with, got 9"):
        layer("flt", layout=Layout.patches(4, 4, prefix=1))(normal(2, 9, 12))
    with pytest.raises(ValueError, match=r"position \[B, L, 3\] must come with the input"):
        layer("flt", layout=Layout(3))(normal(2, 9, 12))
    for method in ("softmax", "flt", "nprf"):
        with pytest.raises(ValueError, match="expected at least 2 tokens, those without position, got 1"):
            layer(method, layout=Layout(prefix=2))(normal(2, 1, 12))
    with pytest.raises(ValueError, match=r"position must be \[..., 9, 3\] beside query"):
        layer("flt", layout=Layout(3))(normal(2, 9, 12), position=normal(2, 8, 3))
    with pytest.raises(ValueError, match="a table of lags needs tokens on a grid or in a sequence"):
        PointSetModel(1, 1, method="nprf")
    with pytest.raises(ValueError, match="a table of lags takes its positions from the layout"):
        layer("nprf")(normal(2, 9, 12), position=normal(9, 1))
    with pytest.raises(ValueError, match=r"grid must be 2 lengths of at least 1"):
        Layout(2, (3,))
    with pytest.raises(ValueError, match=r"dimension must be at least 1, .* got 0, 0 and 64"):
        Layout(0)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        layer("flt", samples=0)
    for method in ("flt", "performer", "nprf", "schoenbat"):
        for features in (0, -1):
            with pytest.raises(ValueError, match=f"features must be at least 1, got {features}"):
                layer(method, features=features)
    with pytest.raises(ValueError, match="kind must be one of positive, trigonometric, got 'tri'"):
        layer("performer", kind="tri")
    with pytest.raises(ValueError, match="width must be at least 1, got -2"):
        KernelAttention(12, 3, attn_head_dim=-2)
    with pytest.raises(ValueError, match="landmarks must be at least 1 and ridge positive, got 0"):
        layer("skyformer", landmarks=0)
    with pytest.raises(ValueError, match="reach must be at least 1, got 0"):
        layer("nprf", reach=0)
    with pytest.raises(ValueError, match="heads and components must be at least 1 and limit positive"):
        PositionFunction(3, Layout(), limit=0)

from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention
from torch import Tensor, nn

from kernattn.modules import METHODS, KernelAttention, PositionFunction, switch_attention

each = pytest.mark.parametrize("method", METHODS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    return timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=5, embed_dim=24, depth=2, num_heads=3, **options
    )


@each
@pytest.mark.parametrize(
    "options", [{}, {"no_embed_class": True, "class_token": False, "global_pool": "avg"}]
)
def test_a_vision_transformer_is_switched_and_keeps_its_weights(method: str, options: dict[str, Any]) -> None:
    model = vit(pos_embed="none", **options)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = sum(p.numel() for p in model.parameters())
    switched = switch_attention(model, method)
    assert switched is model
    output = model(normal(2, 1, 8, 8))
    assert output.shape == (2, 5)
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    state = model.state_dict()
    for name, tensor in weights.items():
        if method == "s4d" and ".attn.qkv." in name:
            tensor = tensor[-24:]
        assert torch.equal(state[name], tensor), name
    assert abs(sum(p.numel() for p in model.parameters()) / before - 1) < 0.15


def test_exact_attention_without_positions_is_what_timm_does() -> None:
    model = vit().eval()
    image = normal(2, 1, 8, 8)
    before = model(image)
    switch_attention(model, "softmax", relative=False)
    torch.testing.assert_close(model(image), before)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "skyformer"])  # its landmarks have an order
def test_a_patch_model_sees_where_its_patches_are_if_its_method_does(method: str) -> None:
    model = switch_attention(vit(pos_embed="none"), method).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, PositionFunction):
                module.amplitude.mul_(4)
            if hasattr(module, "log_bias"):
                module.log_bias.copy_(normal(*module.log_bias.shape))
        image = normal(1, 1, 8, 8)
        patches = image.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2, 3)
        patches = patches[:, :, torch.randperm(16, generator=generator(2))]
        shuffled = patches.unflatten(2, (4, 4)).transpose(3, 4).reshape(1, 1, 8, 8)
        difference = (model(image) - model(shuffled)).abs().max()
    assert (difference < 1e-5) == (method in ("performer", "schoenbat"))


def test_a_refused_switch_leaves_the_model_as_it_was() -> None:
    model = vit(attn_drop_rate=0.1)
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="attn_drop must be 0"):
        switch_attention(model, "flt")
    assert [type(module) for module in model.modules()] == kinds
    model = switch_attention(vit(), "s4d")
    with pytest.raises(ValueError, match=r"blocks\.0\.attn has no queries and keys any more"):
        switch_attention(model, "flt")
    model = switch_attention(switch_attention(vit(), "performer"), "flt")
    assert model(normal(2, 1, 8, 8)).shape == (2, 5)


class Rotary(Attention):
    """A layer that is called with rotations."""

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Biased(Attention):
    """A layer with a bias of its own."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.q_bias = nn.Parameter(torch.zeros(dim))


class Tabled(Attention):
    """A layer with a table in a part of its own."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.rel_pos = nn.Module()
        self.rel_pos.register_buffer("index", torch.zeros(4, 4))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Rotary, r"1 cannot be replaced: Rotary\.forward takes rope: expected only x, attn_mask, is_causal"),
        (Biased, "1 cannot be replaced: Biased has q_bias: expected parameters and buffers in qkv, "),
        (Tabled, "1 cannot be replaced: Tabled has rel_pos: expected parameters and buffers in qkv, "),
    ],
)
def test_a_layer_that_would_lose_something_is_refused(kind: type[Attention], reason: str) -> None:
    model = nn.Sequential(Attention(12, 3), kind(12, 3)).train()
    model[0].proj_drop.eval()
    before = [(name, module, module.training) for name, module in model.named_modules()]
    with pytest.raises(ValueError, match=reason):
        switch_attention(model, "flt")
    assert [(name, module, module.training) for name, module in model.named_modules()] == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eva02_tiny_patch14_224", "EvaAttention has q_bias, v_bias"),
        ("vit_relpos_small_patch16_224", "RelPosAttention has rel_pos"),
        ("vit_small_patch16_rope_224", "takes rope"),
        ("vit_small_patch16_dinov3", "takes rope"),
    ],
)
def test_models_with_positions_of_their_own_are_refused(name: str, reason: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)
    with pytest.raises(ValueError, match=rf"blocks\.0\.attn cannot be replaced: .*{reason}"):
        switch_attention(model, "flt")


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no attention layers with qkv"):
        switch_attention(nn.Linear(3, 3), "flt")


def test_a_layer_itself_is_not_switched_in_place() -> None:
    attention = Attention(12, 3)
    parts = list(attention.named_modules())
    with pytest.raises(ValueError, match="layers inside, got Attention, which is one itself: replace it by"):
        switch_attention(attention, "flt")
    assert list(attention.named_modules()) == parts


@each
def test_a_shared_layer_stays_shared(method: str) -> None:
    model = nn.ModuleDict({"first": Attention(12, 3), "other": Attention(12, 3)})
    model["second"] = model["first"]
    switch_attention(model, method)
    assert isinstance(model["first"], KernelAttention)
    assert model["second"] is model["first"]
    assert model["other"] is not model["first"]


def test_what_is_taken_over_keeps_its_mode() -> None:
    model = nn.Sequential(Attention(12, 3, proj_drop=0.1), Attention(12, 3)).train()
    model[0].proj_drop.eval()
    model[1].eval()
    switch_attention(model, "performer")
    assert not model[0].proj_drop.training
    assert model[0].mixer.training
    assert not any(module.training for module in model[1].modules())

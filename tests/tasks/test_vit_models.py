from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tasks import UnknownNameError
from tasks.vit_models import named_transformer, vision_transformer

SIZES = {"image": 8, "patch": 2, "width": 32, "depth": 3, "heads": 4}


class LinearAttention(nn.Module):
    """Attention without a softmax: positive features of queries and keys, normalised."""

    def __init__(self, dim, num_heads=8, qkv_bias=False, device=None, dtype=None, **_):
        super().__init__()
        self.heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward(self, tokens, attn_mask=None, is_causal=False):
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0].exp(), parts[1].exp(), parts[2]
        memory = key.transpose(-2, -1) @ value
        read = query @ memory / (query @ key.sum(-2).unsqueeze(-1))
        return self.proj(read.transpose(1, 2).flatten(2))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_is_timms_transformer_and_computes_what_fused_attention_computes():
    model = vision_transformer(**SIZES).eval()
    assert type(model) is VisionTransformer
    images = torch.randn(5, 1, 8, 8, generator=generator())
    plain = model(images)
    for block in model.blocks:
        block.attn.fused_attn = True
    torch.testing.assert_close(model(images), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "image", "patch", "tokens"),
    [
        ("vit_tiny_patch16_224", 8, 2, 17),
        ("vit_tiny_patch16_224", 32, 8, 17),
        ("vit_tiny_patch16_224", 64, None, 17),
        ("vit_small_patch16_224", 224, None, 197),
        ("vit_base_patch16_224", 224, None, 197),
        ("vit_base_patch32_224", 96, None, 10),
    ],
)
def test_named_models_have_the_asked_for_shapes(model, image, patch, tokens):
    with torch.device("meta"):
        built = named_transformer(model, image=image, patch=patch, classes=7, channels=3)
        assert built(torch.empty(2, 3, image, image)).shape == (2, 7)
    assert built.pos_embed.shape[1] == tokens
    assert not any(getattr(layer, "fused_attn", False) for layer in built.modules())


def test_the_base_model_is_timms():
    with torch.device("meta"):
        model = named_transformer("vit_base_patch16_224", image=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656
    assert len(model.blocks) == 12


@pytest.mark.parametrize(
    "build",
    [
        lambda attention: vision_transformer(**SIZES, attention=attention),
        lambda attention: named_transformer(
            "vit_tiny_patch16_224", image=8, patch=4, channels=1, attention=attention
        ),
    ],
)
def test_swapped_attention_is_used_in_every_block(build):
    torch.manual_seed(0)
    model = build(LinearAttention).eval()
    assert all(type(block.attn) is LinearAttention for block in model.blocks)
    seen = []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    images = torch.randn(2, 1, 8, 8, generator=generator())
    outputs = model(images)
    assert len(seen) == len(model.blocks)
    own = build(None).eval()
    own.load_state_dict(model.state_dict())
    assert (own(images) - outputs).abs().max() > 1e-4


def test_attention_that_cannot_be_swapped_is_refused():
    with pytest.raises(TypeError, match="attention must be a module class with the signature of timm's"):
        vision_transformer(**SIZES, attention=LinearAttention(32))
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="ParallelScalingBlock has its attention built in"),
    ):
        named_transformer("vit_base_patch16_xp_224", image=32, attention=LinearAttention)


def test_unknown_models_name_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'vit_tiny_patch16_224'"):
        named_transformer("vit_tiny_patch16_225", image=64)
    with pytest.raises(UnknownNameError, match="timm has no Vision Transformer 'resnet50'"):
        named_transformer("resnet50", image=64)


def test_depth_of_a_named_model_is_of_choice():
    build = partial(named_transformer, "vit_tiny_patch16_224", image=32)
    assert len(build(depth=2).blocks) == 2
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        build(depth=0)


def test_a_patch_must_divide_the_image():
    with torch.device("meta"), pytest.raises(ValueError, match="patch must divide image, got patch 16"):
        named_transformer("vit_tiny_patch16_224", image=40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"patch": 3}, "patch must divide image, got patch 3 and image 8"),
        ({"heads": 5}, "heads must divide width, got 5 heads and width 32"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        vision_transformer(**(SIZES | change))

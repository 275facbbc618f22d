import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tasks import get_task
from tasks.vit import vision_transformer

SIZES = {"image": 8, "patch": 2, "width": 32, "depth": 3, "heads": 4}


def test_it_is_timms_transformer_and_computes_what_fused_attention_computes():
    model = vision_transformer(**SIZES).eval()
    assert type(model) is VisionTransformer
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = model(images)
    for block in model.blocks:
        block.attn.fused_attn = True
    torch.testing.assert_close(model(images), plain, rtol=1e-4, atol=1e-5)


def test_the_digits_judge_is_the_stated_model():
    module = get_task("digits-vit").module
    assert len(module.blocks) == 3
    assert module.blocks[0].attn.num_heads == 4
    assert module.pos_embed.shape == (1, 17, 32)


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

import pytest
from torch import nn

from tasks import UnknownNameError, get_task
from tasks.image_mlp import mlp


def test_layers_are_as_asked():
    kinds = [type(layer) for layer in mlp((4, 3, 2), "tanh", norm="layer")]
    assert kinds == [nn.Flatten, nn.Linear, nn.LayerNorm, nn.Tanh, nn.Linear]
    assert [type(layer) for layer in mlp((4, 2), "relu")] == [nn.Flatten, nn.Linear]


@pytest.mark.parametrize(
    ("name", "count"), [("digits-mlp", 26_122), ("digits-mlp-32", 2_410), ("teacher", 2_058)]
)
def test_sizes(name, count):
    assert sum(p.numel() for p in get_task(name).module.parameters()) == count


def test_bad_arguments():
    with pytest.raises(UnknownNameError, match=r"Unknown activation 'rel'\. Did you mean 'relu'"):
        mlp((4, 2), "rel")
    for widths in ((4,), (4, 0, 2)):
        with pytest.raises(ValueError, match="widths must be at least two numbers"):
            mlp(widths, "relu")


def test_batch_norm_is_one_of_the_normalisations():
    kinds = [type(layer) for layer in mlp((4, 3, 2), "silu", norm="batch")]
    assert kinds == [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.SiLU, nn.Linear]
    with pytest.raises(UnknownNameError, match="Did you mean 'layer'"):
        mlp((4, 2), "relu", norm="layers")

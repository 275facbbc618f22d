import math

import pytest
import torch

from tasks import get_task
from tasks.language import CausalTransformer

SIZES = {"vocabulary": 11, "length": 9, "width": 8, "depth": 2, "heads": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_no_token_sees_the_future():
    torch.manual_seed(0)
    model = CausalTransformer(**SIZES)
    tokens = torch.randint(11, (4, 9), generator=generator())
    logits = model(tokens)
    assert logits.shape == (4, 9, 11)
    for place in range(1, 9):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        other = model(changed)
        torch.testing.assert_close(other[:, :place], logits[:, :place])
        assert not torch.allclose(other[:, place:], logits[:, place:])


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    model = CausalTransformer(**SIZES)
    block = model.blocks[0]
    x = torch.randn(3, 9, 8, generator=generator())
    query, key, value = (
        part.unflatten(-1, (2, 4)).transpose(1, 2) for part in block.query_key_value(x).chunk(3, -1)
    )
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = block.projection(attended.transpose(1, 2).flatten(2))
    torch.testing.assert_close(block._attend(x), expected)


def test_a_shorter_window_is_fine():
    assert CausalTransformer(**SIZES)(torch.zeros(2, 4, dtype=torch.int64)).shape == (2, 4, 11)


@pytest.mark.parametrize(("name", "vocabulary"), [("text-transformer", 97), ("byte-transformer", 256)])
def test_losses_are_in_nats_and_a_uniform_guess_normalises_to_one(name, vocabulary):
    task = get_task(name)
    params = task.init(generator())
    params |= {key: torch.zeros_like(params[key]) for key in ("head.weight", "head.bias")}
    loss = task.loss(params, task.batch(generator()))
    torch.testing.assert_close(loss, torch.tensor(math.log(vocabulary)))
    torch.testing.assert_close(task.normalise(loss), torch.tensor(1.0))
    assert task.metric == "loss"


def test_adam_learns_to_spell():
    task = get_task("text-transformer")
    rng = generator()
    params = {key: value.requires_grad_() for key, value in task.init(rng).items()}
    optimizer = torch.optim.Adam(params.values(), lr=3e-3)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = task.loss(params, task.batch(rng))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 3.2 < losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"heads": 3}, "heads must divide width, got 3 heads and width 8"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        CausalTransformer(**(SIZES | change))

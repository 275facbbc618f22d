from contextlib import nullcontext

import pytest
import torch
from torch import nn

from learned_opt import FLT, LearnedOptimizer, RuleConfig, UpdateRule, orthogonal, step
from learned_opt.orthogonal import orthogonalize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8), (6, 3, 4, 4)])
def test_singular_values_come_together_and_the_size_stays(shape) -> None:
    direction = random(*shape)
    result = orthogonalize(direction)
    assert result.shape == direction.shape
    torch.testing.assert_close(result.square().mean(), direction.square().mean())
    spread = torch.linalg.svdvals(result.reshape(shape[0], -1))
    before = torch.linalg.svdvals(direction.reshape(shape[0], -1))
    assert before.max() / before.min() > 1.4
    assert spread.max() / spread.min() < min(2.5, before.max() / before.min())


def test_singular_vectors_stay() -> None:
    left, values, right = torch.linalg.svd(random(7, 11), full_matrices=False)
    result = orthogonalize(left @ values.diag() @ right)
    rotated = left.mT @ result @ right.mT
    torch.testing.assert_close(rotated, rotated.diagonal().diag(), atol=1e-9, rtol=0)
    assert (rotated.diagonal() > 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_it_is_equivariant_to_scale_and_sign(scale) -> None:
    direction = random(5, 9)
    torch.testing.assert_close(orthogonalize(-scale * direction), -scale * orthogonalize(direction))


def test_a_zero_stays_zero_and_vectors_stay_as_they_are() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 5)), torch.zeros(4, 5))
    for shape in ((), (6,), (0, 3)):
        direction = random(*shape)
        assert orthogonalize(direction) is direction


@pytest.mark.parametrize("shape", [(192, 200), (256, 8, 25), (320, 192)])
def test_products_in_bfloat16_change_large_matrices_little(shape, monkeypatch) -> None:
    direction = random(*shape).float()
    results, small = [], []
    for fast in (False, True):
        monkeypatch.setattr(orthogonal, "CAPABILITIES", {"amx_bf16": fast})
        results.append(orthogonalize(direction))
        torch.testing.assert_close(results[-1].square().mean(), direction.square().mean(), rtol=1e-4, atol=0)
        small.append(orthogonalize(direction.reshape(shape[0], -1)[:190]))
    assert torch.equal(*small)
    exact, rounded = results
    assert rounded.dtype is torch.float32
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.02
    spread = torch.linalg.svdvals(rounded.reshape(shape[0], -1))
    assert spread.max() / spread.min() < 3.0


def test_what_waits_is_taken_in_parts_to_the_same_bits(monkeypatch) -> None:
    shapes = [(40, 50), (7,), (30, 20), (), (60, 60), (9, 3, 3), (5,)]
    results = []
    for limit in (2**22, 2500):
        monkeypatch.setattr(step, "WAITING_ELEMENTS", limit)
        params = [nn.Parameter(random(*shape, seed=index).float()) for index, shape in enumerate(shapes)]
        optimizer = FLT(params, lr=0.1, weight_decay=0.1, orthogonalize=True)
        for turn in range(3):
            for index, param in enumerate(params):
                param.grad = random(*param.shape, seed=10 * turn + index).float()
            if turn == 1:
                params[2].grad[0, 0] = torch.nan
            with pytest.warns(UserWarning, match="not finite") if turn == 1 else nullcontext():
                optimizer.step()
        results.append([param.detach() for param in params])
        assert [int(optimizer.state[param]["skipped"]) for param in params] == [0, 0, 1, 0, 0, 0, 0]
    for whole, cut in zip(*results, strict=True):
        assert torch.equal(whole, cut)


def test_groups_switch_it_on_and_off() -> None:
    weights = [nn.Parameter(random(6, 10).float()) for _ in range(2)]
    biases = [nn.Parameter(random(10).float()) for _ in range(2)]
    groups = [
        {"params": [weights[0], biases[0]], "orthogonalize": True},
        {"params": [weights[1], biases[1]], "orthogonalize": False},
    ]
    optimizer = FLT(groups, lr=0.1)
    start = weights[0].detach().clone()
    for param, like in zip(weights + biases, (6, 6, 1, 1), strict=True):
        param.grad = random(like, 10, seed=3).float().reshape(param.shape)
    optimizer.step()
    moved = [(weight - start).detach() for weight in weights]
    torch.testing.assert_close(moved[0], orthogonalize(moved[1]), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(moved[0], moved[1])
    torch.testing.assert_close(biases[0], biases[1])


def test_a_rule_may_be_meant_for_it() -> None:
    rule, config = UpdateRule(), RuleConfig(orthogonal=True)
    meta, weight = rule.init_meta(), nn.Parameter(torch.ones(4, 3))
    wanted = {None: True, True: True, False: False}
    for option, expected in wanted.items():
        optimizer = LearnedOptimizer([weight], rule=UpdateRule(config), meta=meta, orthogonalize=option)
        assert optimizer.param_groups[0]["orthogonalize"] is expected
    assert LearnedOptimizer([weight], rule=rule, meta=meta).param_groups[0]["orthogonalize"] is False

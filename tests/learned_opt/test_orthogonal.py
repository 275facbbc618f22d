import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from learned_opt import (
    FLT,
    LearnedOptimizer,
    RuleConfig,
    UpdateRule,
    functional,
    fused_step,
    orthogonal,
    orthogonal_in_place,
)
from learned_opt.architecture import SHAPED
from learned_opt.backends.native import update
from learned_opt.members import Member
from learned_opt.orthogonal import (
    MAX_EXPONENT,
    POLYNOMIALS,
    Shaping,
    orthogonalize,
    spectral_size,
    tempered,
)
from learned_opt.orthogonal_in_place import shape_in_place


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("iterations", POLYNOMIALS)
@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8), (6, 3, 4, 4)])
def test_singular_values_come_together_and_the_size_stays(shape, iterations) -> None:
    direction = random(*shape)
    result = orthogonalize(direction, iterations=iterations)
    assert result.shape == direction.shape
    torch.testing.assert_close(result.square().mean(), direction.square().mean())
    spread = torch.linalg.svdvals(result.reshape(shape[0], -1))
    before = torch.linalg.svdvals(direction.reshape(shape[0], -1))
    assert before.max() / before.min() > 1.4
    assert spread.max() / spread.min() < min(2.5, max(1.5, before.max() / before.min()))


@pytest.mark.parametrize(
    ("iterations", "least", "low", "high"), [(3, 0.01266, 0.799, 1.201), (5, 0.005, 0.68, 1.16)]
)
def test_singular_values_end_where_it_is_said(iterations, least, low, high) -> None:
    values = torch.logspace(math.log10(least), 0, 10_001, dtype=torch.float64)
    for a, b, c in POLYNOMIALS[iterations]:
        values = a * values + b * values**3 + c * values**5
    assert low < values.min() < low + 0.01
    assert high - 0.01 < values.max() < high


def test_three_iterations_are_each_the_best_for_their_interval() -> None:
    low, high = 0.01265, 1.0
    for a, b, c in POLYNOMIALS[3]:
        values = torch.logspace(math.log10(low), math.log10(high), 20_001, dtype=torch.float64)
        off = a * values + b * values**3 + c * values**5 - 1
        most = off.abs().max().item()
        turns = [off[0], off[1:-1][off[1:-1] > 0].max(), off[5000:].min(), off[-1]]
        assert [round(turn.item() / most, 2) for turn in turns] == [-1, 1, -1, 1]
        low, high = 1 - most, 1 + most


@pytest.mark.parametrize("iterations", [0, 4, -1])
def test_other_numbers_of_iterations_are_refused(iterations) -> None:
    with pytest.raises(ValueError, match=f"iterations are {iterations}; expected one of 3, 5"):
        RuleConfig(iterations=iterations)


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


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1e25])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (192, 400), (400, 200)])
def test_squares_neither_vanish_nor_overflow(shape, scale, monkeypatch) -> None:
    direction = random(*shape).float()
    for fast in (False, True):
        monkeypatch.setattr(orthogonal, "CAPABILITIES", {"amx_bf16": fast})
        expected, found = orthogonalize(direction), orthogonalize(scale * direction)
        torch.testing.assert_close(found / scale, expected, rtol=0.05, atol=1e-2)
        if scale < 1:  # no rule gives directions whose norm overflows
            moved = scale * direction
            shape_in_place(Shaping(), [moved], [torch.ones(shape)])
            assert moved.isfinite().all()


@pytest.mark.parametrize("weights", ["flt-base", "flt-small"])
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("smallest", [0.0, 1e-38, 1e-43])
def test_gradients_that_die_away_leave_weights_finite(weights, backend, smallest) -> None:
    param = nn.Parameter(random(6, 5).float())
    optimizer = LearnedOptimizer.from_pretrained(weights, [param], backend=backend)
    for step in range(700):
        param.grad = random(6, 5, seed=step).float() if step < 5 else torch.full((6, 5), smallest)
        optimizer.step()
    assert param.isfinite().all()
    assert optimizer.skipped_gradients() == {}


def test_a_zero_stays_zero_and_vectors_stay_as_they_are() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 5)), torch.zeros(4, 5))
    for shape in ((), (6,), (0, 3)):
        direction = random(*shape)
        assert orthogonalize(direction) is direction


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_a_tempered_direction_is_between_adams_and_the_momentum(scale) -> None:
    direction, root = random(8, 30), scale * random(8, 30, seed=1).abs()
    exponents = (0.0, 0.5, 1.0, -3.0, 7.0)
    found = [tempered(direction, root**2, torch.tensor([each])) for each in exponents]
    torch.testing.assert_close(found[0], direction)
    torch.testing.assert_close(found[3], direction)
    for power, result in zip((0.5, 1.0, MAX_EXPONENT), (found[1], found[2], found[4]), strict=True):
        torch.testing.assert_close(result, direction * (root / root.max()) ** power)
    nothing = tempered(torch.zeros(3, 4), torch.zeros(3, 4), torch.tensor([1.0]))
    assert torch.equal(nothing, torch.zeros(3, 4))


def test_the_power_is_learned_by_its_gradient() -> None:
    exponent = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda direction, second, power: tempered(direction, second, power),
        (random(3, 4).requires_grad_(), random(3, 4, seed=1).square().requires_grad_(), exponent),
    )


def test_sizes_fall_with_the_fan_in() -> None:
    shapes = ((10, 64), (7, 256), (8, 16, 8, 8), (8, 4, 2, 2), (1, 900), (50, 1), (5, 0), (0, 3))
    assert [spectral_size(shape) for shape in shapes] == [1.0, 0.5, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_shaping_is_its_parts_in_turn() -> None:
    direction, second, exponent = random(8, 256), random(8, 256, seed=1).square(), torch.tensor([0.7])
    plain = orthogonalize(tempered(direction, second, exponent))
    plain = plain * (direction.norm() / plain.norm())
    torch.testing.assert_close(Shaping(exponent)(direction, second), plain)
    torch.testing.assert_close(Shaping(exponent, spectral=True)(direction, second), plain / 2)
    torch.testing.assert_close(Shaping()(direction, second), orthogonalize(direction))
    three = orthogonalize(direction, iterations=3)
    torch.testing.assert_close(Shaping(iterations=3)(direction, second), three)
    assert not torch.allclose(three, orthogonalize(direction))
    for shape in ((), (5,), (0, 3)):
        vector = random(*shape)
        assert Shaping(exponent, spectral=True)(vector, vector.square()) is vector


@pytest.mark.parametrize("iterations", POLYNOMIALS)
@pytest.mark.parametrize("backend", ["eager", "native", "compiled"])
def test_every_backend_shapes_as_the_functional_step(backend, iterations, trained) -> None:
    rule, shapes = (
        UpdateRule(replace(SHAPED, iterations=iterations)),
        {"weight": (20, 17), "bias": (20,), "filter": (4, 3, 3, 3), "scale": ()},
    )
    meta = trained(rule) | {"head.root_exponent": torch.tensor([0.6])}
    params = {name: random(*shape, seed=7).float() for name, shape in shapes.items()}
    leaves = [nn.Parameter(param.clone()) for param in params.values()]
    optimizer = LearnedOptimizer(leaves, 1e-2, rule=rule, meta=meta, backend=backend)
    state = functional.init_state(rule, params)
    for turn in range(4):
        grads = {name: random(*shape, seed=20 + turn).float() for name, shape in shapes.items()}
        params, state = functional.update(rule, meta, state, grads, params, lr=1e-2)
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad
        optimizer.step()
    for leaf, expected in zip(leaves, params.values(), strict=True):
        torch.testing.assert_close(leaf.detach(), expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    "shape", [(20, 31), (31, 20), (6, 3, 4, 4), (200, 700), (700, 200), (256, 8, 32), (5,)]
)
@pytest.mark.parametrize("shaping", [Shaping(), Shaping(torch.tensor([0.6]), True, 3)])
def test_in_place_it_is_the_same(shaping, shape, fast, monkeypatch) -> None:
    monkeypatch.setattr(orthogonal, "CAPABILITIES", {"amx_bf16": fast})
    monkeypatch.setattr(orthogonal_in_place, "CHUNK", 1000)
    monkeypatch.setattr(orthogonal_in_place, "PANEL", 60)
    direction, second = random(*shape).float(), random(*shape, seed=1).float() ** 4
    expected, kept = shaping(direction, second), second.clone()
    shape_in_place(shaping, [direction], [second])
    assert torch.equal(second, kept)
    exact = not fast or min(shape[0], direction[0].numel()) < orthogonal.LEAST_SIDE
    error = (direction - expected).norm() / expected.norm()
    assert error < (1e-5 if exact else 0.03)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("shape", [(20, 31), (6, 3, 4, 4), (200, 250), (200, 700), (450, 200)])
@pytest.mark.parametrize("shaping", [Shaping(), Shaping(torch.tensor([0.6]), True, 3)])
def test_several_of_one_shape_are_shaped_as_one_by_one(shaping, shape, fast, monkeypatch) -> None:
    monkeypatch.setattr(orthogonal, "CAPABILITIES", {"amx_bf16": fast})
    monkeypatch.setattr(orthogonal_in_place, "PANEL", 60)
    scales = (1.0, 1e-20, 0.0, 1e3)  # what one is must not tell in another
    alone = [scale * random(*shape, seed=index).float() for index, scale in enumerate(scales)]
    seconds = [random(*shape, seed=10 + index).float() ** 4 for index in range(4)]
    together = [direction.clone() for direction in alone]
    shape_in_place(shaping, together, seconds)
    for direction, second, found in zip(alone, seconds, together, strict=True):
        shape_in_place(shaping, [direction], [second])
        rounded = fast and min(shape) >= orthogonal.LEAST_SIDE
        assert (found - direction).norm() <= (0.02 if rounded else 1e-5) * direction.norm()


@pytest.mark.parametrize("count", [1, 3])
def test_second_moments_are_looked_at_only_to_temper(count) -> None:
    directions = [random(5, 7, seed=index) for index in range(count)]
    expected = [orthogonalize(direction) for direction in directions]
    shape_in_place(Shaping(), directions, [torch.ones(3, 7)] * count)  # as this process's part of a DTensor
    torch.testing.assert_close(directions, expected)


@pytest.mark.parametrize("iterations", POLYNOMIALS)
@pytest.mark.parametrize("rows", [40, 55, 100])
def test_iterations_in_a_run_are_those_one_by_one(rows, iterations, monkeypatch) -> None:
    monkeypatch.setattr(orthogonal_in_place, "PANEL", 7)
    short = 20
    direction = random(rows, short)
    single = direction / direction.norm()
    together = single.clone()
    room, squares = torch.empty_like(single), torch.empty(2, short, short, dtype=single.dtype)
    polynomials = POLYNOMIALS[iterations]
    for run in (polynomials[:3], polynomials[3:]):
        if run:
            orthogonal_in_place._iterate(together, room, squares, run)
            together, room = room, together
        for polynomial in run:
            orthogonal_in_place._iterate(single, after := torch.empty_like(single), squares, [polynomial])
            single = after
        torch.testing.assert_close(together, single, rtol=1e-9, atol=1e-12)
    together *= direction.norm() / together.norm()
    expected = orthogonalize(direction, iterations=iterations)
    torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 31), (200, 300)])
def test_in_place_a_zero_stays_zero(shape, monkeypatch) -> None:
    monkeypatch.setattr(orthogonal, "CAPABILITIES", {"amx_bf16": True})
    direction = torch.zeros(shape)
    shape_in_place(Shaping(torch.tensor([0.6])), [direction], [torch.zeros(shape)])
    assert torch.equal(direction, torch.zeros(shape))


def test_what_waits_is_taken_in_parts_to_the_same_bits(monkeypatch) -> None:
    shapes = [(40, 50), (7,), (30, 20), (), (60, 60), (9, 3, 3), (5,)]
    results = []
    for limit in (2**22, 2500):
        monkeypatch.setattr(fused_step, "WAITING_ELEMENTS", limit)
        monkeypatch.setattr(update, "LARGEST_SHAPED", 400)
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


def test_what_is_taken_at_once_is_of_one_device() -> None:
    devices = ["cpu", "meta", "cpu", "meta"]
    params = [nn.Parameter(torch.empty((6, 5), device=device)) for device in devices]
    group = {"params": params, "orthogonalize": True}
    taken = [
        fused_step.Taken(Member(param, param, group), {}, index > 1) for index, param in enumerate(params)
    ]
    parts = [[each.member.param for each in part] for part in fused_step._parts(taken)]
    assert [[id(param) for param in part] for part in parts] == [[*map(id, params[k::2])] for k in range(2)]


def test_what_waits_on_a_gpu_is_bounded_and_of_one_shape_at_a_time() -> None:
    shapes = [(2304, 768), (768, 768), (768,), (3072, 768)] * 12
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    group = {"params": params, "orthogonalize": True}
    taken = [fused_step.Taken(Member(param, param, group), {}, param.ndim > 1) for param in params]
    parts = list(fused_step._parts(taken))
    assert {id(each.member.param) for part in parts for each in part} == set(map(id, params))
    assert sum(map(len, parts)) == len(params)
    waiting = [[each.member.param for each in part if each.waits] for part in parts]
    assert all(sum(map(torch.numel, each)) <= fused_step.STACKED_ELEMENTS for each in waiting)
    assert [len(each) for each in waiting] == [12, 4, 4, 4, 3, 3, 3, 3]
    assert all(len({param.shape for param in each}) == 1 for each in waiting)


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
    shaping, second = optimizer.rule.shaping(optimizer.meta), optimizer.state[weights[1]]["memory"][-1]
    torch.testing.assert_close(moved[0], shaping(moved[1], second), rtol=1e-4, atol=1e-6)
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

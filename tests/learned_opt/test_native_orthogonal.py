"""Directions of small matrices, made orthogonal by the native step itself."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from learned_opt import FLT, LearnedOptimizer, UpdateRule, orthogonal
from learned_opt.architecture import LEAN, SHAPED
from learned_opt.backends.native import update
from learned_opt.memory import Meta
from learned_opt.orthogonal import Shaping

SMALL = [(1, 1), (1, 9), (9, 1), (7, 17), (17, 7), (5, 3, 3, 2), (2, 1, 40)]
SHAPES = [*SMALL, (31, 33), (49, 48), (191, 191), (33, 1023), (530, 130), (256, 300), (32, 64), (70, 35)]
"""Of one row, narrow and wide, around multiples of lanes and tiles, of several blocks and tiles, and of which
iterations are taken in a run."""
KINDS = {
    "plain": (replace(SHAPED, tempered=False, spectral=False), None),
    "spectral": (replace(SHAPED, tempered=False), None),
    "not tempered": (SHAPED, -0.5),
    "tempered": (SHAPED, 0.5),
    "five iterations": (replace(SHAPED, iterations=5), 0.5),
    "most tempered": (SHAPED, 3.0),
    "current statistics": (replace(SHAPED, statistics="current"), 0.7),
}


@pytest.fixture(autouse=True)
def no_units_for_bfloat16(monkeypatch) -> None:
    """What is left to torch is iterated in float32, as all is here."""
    for module in (orthogonal, update):
        monkeypatch.setattr(module, "CAPABILITIES", {})


def draw(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gradients whose elements differ by decades."""
    scales = (10 ** (-3 * torch.rand(shape, generator=generator)) for shape in SHAPES)
    return [(torch.randn(scale.shape, generator=generator) * scale).to(dtype) for scale in scales]


def rule_of(kind: str, trained) -> tuple[UpdateRule, Meta]:
    config, exponent = KINDS[kind]
    rule = UpdateRule(config)
    meta = trained(rule)
    return rule, meta if exponent is None else meta | {"head.root_exponent": torch.tensor([exponent])}


def steps(rule: UpdateRule, meta: Meta, gradients: list[list[Tensor]], **options) -> LearnedOptimizer:
    """At a learning rate of 1 parameters that were set to zero become minus their directions."""
    params = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    optimizer = LearnedOptimizer(params, 1.0, rule=rule, meta=meta, backend="native", **options)
    for grads in gradients:
        for param, grad in zip(params, grads, strict=True):
            param.data.zero_()
            param.grad = grad
        optimizer.step()
    return optimizer


def check_directions(rule: UpdateRule, meta: Meta, state_dtype: torch.dtype = torch.float32) -> None:
    """They are what a `Shaping` in float64 makes of the directions as the rule gives them."""
    generator = torch.Generator().manual_seed(2)
    gradients = [draw(generator) for _ in range(3)]
    plain = steps(rule, meta, gradients, orthogonalize=False, state_dtype=state_dtype)
    found = steps(rule, meta, gradients, orthogonalize=True, state_dtype=state_dtype)
    shaping = rule.shaping({name: tensor.double() for name, tensor in meta.items()})
    pairs = zip(plain.param_groups[0]["params"], found.param_groups[0]["params"], strict=True)
    for before, after in pairs:
        memory = plain.state[before]["memory"]
        assert torch.equal(memory, found.state[after]["memory"])
        expected = -shaping(-before.detach().double(), memory[-1].double())
        error = (after.detach() - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, tuple(before.shape)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_those_of_the_definition(kind, state_dtype, threads, trained) -> None:
    check_directions(*rule_of(kind, trained), state_dtype)


def test_narrower_vectors_give_the_same(narrower, trained) -> None:
    check_directions(*rule_of("tempered", trained))


def test_torch_is_not_asked(trained, monkeypatch) -> None:
    monkeypatch.setattr(Shaping, "__call__", None)
    monkeypatch.setattr("learned_opt.step.shape_in_place", None)
    generator = torch.Generator().manual_seed(3)
    steps(*rule_of("tempered", trained), [draw(generator)])


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 2**14), True), ((1, 2**14 + 1), False), ((2**16, 3), False), ((16, 2**14), True), ((1, 0), False)],
)
def test_long_and_thin_matrices_are_left_to_torch(shape, taken) -> None:
    assert update.NativeUpdate(UpdateRule(LEAN)).shapes(torch.empty(shape)) is taken


def test_the_number_of_threads_changes_no_bit(trained) -> None:
    generator = torch.Generator().manual_seed(4)
    gradients, results, before = [draw(generator) for _ in range(3)], [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(steps(*rule_of("tempered", trained), gradients).param_groups[0]["params"])
    torch.set_num_threads(before)
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("largest", [0, 2000, update.LARGEST_SHAPED])
def test_training_is_that_of_the_eager_step(dtype, largest, trained, monkeypatch) -> None:
    """With some matrices, all or none left to torch; one not contiguous, one without a finite gradient."""
    monkeypatch.setattr(update, "LARGEST_SHAPED", largest)
    rule, generator = UpdateRule(LEAN), torch.Generator().manual_seed(5)
    meta, start = trained(rule), draw(generator, dtype)
    turned = SHAPES.index((31, 33))
    models, optimizers = [], []
    for backend in ("eager", "native"):
        params = [nn.Parameter(param.clone()) for param in start]
        params[turned] = nn.Parameter(start[turned].mT.contiguous().mT)
        models.append(params)
        optimizers.append(
            LearnedOptimizer(
                params,
                1e-2,
                rule=rule,
                meta=meta,
                backend=backend,
                orthogonalize=True,
                weight_decay=0.1,
                maximize=True,
            )
        )
    for turn in range(4):
        grads = draw(generator, dtype)
        if turn == 2:
            grads[3][0, 0] = torch.inf
        for params, optimizer in zip(models, optimizers, strict=True):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            with pytest.warns(UserWarning, match="not finite") if turn == 2 else nullcontext():
                optimizer.step()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    for one, other, shape in zip(*models, SHAPES, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, msg=str(shape))
    assert optimizers[1].skipped_gradients() == {3: 1}
    assert not models[1][turned].is_contiguous()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-15, 1e15])
def test_gradients_of_any_size_give_the_same(scale) -> None:
    """But for those so small that Adam's epsilon counts, which come out finite."""
    generator, results = torch.Generator().manual_seed(6), []
    gradients = [draw(generator) for _ in range(3)]
    for factor in (1.0, scale):
        params = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        optimizer = FLT(params, 1.0, backend="native")
        for grads in gradients:
            for param, grad in zip(params, grads, strict=True):
                param.data.zero_()
                param.grad = grad * factor
            optimizer.step()
        results.append([param.detach() for param in params])
    for expected, found in zip(*results, strict=True):
        assert found.isfinite().all()
        if scale > 1e-16:
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("amx", "expected"), [(False, [True, True, False, False]), (True, [True, False, False, False])]
)
def test_what_it_takes(amx, expected, monkeypatch) -> None:
    """Matrices whose products torch would not take faster."""
    monkeypatch.setattr(update, "CAPABILITIES", {"amx_bf16": amx})
    native = update.NativeUpdate(UpdateRule(LEAN))
    shapes = [(191, 900), (192, 4, 200), (257, 257), (200, 2000)]
    assert [native.shapes(torch.empty(shape)) for shape in shapes] == expected
    assert not native.shapes(torch.empty(0, 3))


def test_a_zero_stays_zero() -> None:
    param = nn.Parameter(torch.zeros(20, 31))
    optimizer = FLT([param], backend="native")
    param.grad = torch.zeros(20, 31)
    optimizer.step()
    assert torch.equal(param.detach(), torch.zeros(20, 31))

"""Tests of the step in Triton, in Triton's interpreter: `test_triton` runs this file in a process of its own.

The interpreter has to be asked for before Triton is imported.
"""

from dataclasses import replace

import pytest
import torch
import triton.language as tl
from torch import Tensor, nn
from triton.runtime import interpreter

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.architecture import LEAN, SHAPED
from learned_opt.backends import get_backend
from learned_opt.backends.in_place import Move
from learned_opt.backends.recipe import recipe_of
from learned_opt.backends.triton import batch, geometry, measuring, steps
from learned_opt.backends.triton.numbers import numbers_of
from learned_opt.memory import FLTConfig, MomentsConfig
from learned_opt.state import new_state
from tests.learned_opt.training import require_the_same_rounding

SHAPES = [(), (1,), (7,), (17,), (1023,), (0,), (0, 3), (33, 17), (2, 3, 4, 5), (3, 2, 2, 2, 2), (5, 300)]
"""Of ranks 0 to 5, empty, of few columns and of many, and beyond what one program takes."""
RULES = {
    "no-scale": RuleConfig(scale="none", epsilon=0.0),
    "moments": RuleConfig(scale="rms", memory=MomentsConfig(betas=(0.9,), mixed_betas=(0.5, 0.99))),
    "delayed": RuleConfig(statistics="delayed"),
    "lean": LEAN,
    "spectrum": replace(LEAN, memory=FLTConfig(reading="spectrum")),
    "shaped": SHAPED,
    "unfactored": RuleConfig(factored=False, shapes=True),
    "progress": RuleConfig(progress=True),
    "delayed-progress": RuleConfig(statistics="delayed", progress=True, scale="none"),
    "delayed-moments": RuleConfig(statistics="delayed", scale="rms", memory=MomentsConfig(betas=(0.9,))),
    "waves": RuleConfig(
        hidden=5,
        directions=1,
        epsilon=1e-3,
        memory=FLTConfig(betas=(0.9, 0.5), wave_betas=(0.9,) * 3, wave_frequencies=(0.1, 0.2, 0.5)),
    ),
}


pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
"""NumPy's, of sums of gradients that are not finite; nothing is made of them."""


@pytest.fixture(autouse=True, scope="module")
def prepare_once():
    """Spare the interpreter half its time: it prepares its language anew for every function called."""
    prepare = interpreter._patch_lang

    def if_need_be(function):
        used = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        prepared = used and not any(tl.core.is_builtin(language.load) for language in used)
        return interpreter._LangPatchScope() if prepared else prepare(function)

    interpreter._patch_lang = if_need_be
    yield
    interpreter._patch_lang = prepare


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Cut tensors of a few hundred elements over several programs, each of which takes several blocks."""
    small = {"TILE": 512, "BLOCK": 256, "LIGHT_BLOCK": 256, "FOLD": 16, "PATCH": (8, 128)}
    for name, value in {**small, "HIGH": 4, "NARROW_PATCH": (16, 16), "NARROW_HIGH": 8}.items():
        monkeypatch.setattr(geometry, name, value)


def draw(
    generator: torch.Generator, shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def follow(config: RuleConfig, trained, shapes: list[tuple[int, ...]], count: int) -> None:
    """Take steps beside the definition in float64, with gradients of all sizes, zero and not finite."""
    rule, generator = UpdateRule(config), torch.Generator().manual_seed(0)
    meta, params = trained(rule), draw(generator, shapes)
    exact = [param.double() for param in params]
    exact_meta = {key: tensor.double() for key, tensor in meta.items()}
    fused = get_backend("triton")(rule)
    state, expected = rule.init_state(params), rule.init_state(exact, dtype=torch.float64)
    totals = torch.linspace(5, 500, len(shapes))  # for a rule that goes by them
    for step in range(count):
        grads = [grad * 10.0 ** (step % 5 - 2) for grad in draw(generator, shapes)]
        if step < 2:
            grads[0].zero_()
        if step == 1:
            grads[-1][..., -1] = float("nan")
            grads[-2][..., 0] = float("-inf")
        directions, state = fused(meta, state, grads, params, total_steps=totals)
        wanted, expected = rule.update(
            exact_meta, expected, [grad.double() for grad in grads], exact, total_steps=totals
        )
        for direction, each in zip(directions, wanted, strict=True):
            if each.numel():
                assert (direction - each).abs().max() <= 1e-5 * each.abs().max(), (step, each.shape)
        torch.testing.assert_close(state["memory"].double(), expected["memory"], rtol=1e-5, atol=1e-5)
        if "statistics" in expected:
            torch.testing.assert_close(
                state["statistics"].double(), expected["statistics"], rtol=1e-5, atol=1e-5
            )
        assert torch.equal(state["step"].double(), expected["step"].double())
        assert torch.equal(state["skipped"].double(), expected["skipped"].double())
    assert state["skipped"].tolist() == [0] * (len(shapes) - 2) + [1, 1]


def test_directions_and_state_are_those_of_the_definition(trained) -> None:
    follow(RuleConfig(), trained, SHAPES, 2)


@pytest.mark.parametrize("name", RULES)
def test_other_rules_too(name, trained) -> None:
    follow(RULES[name], trained, [(3,), (9, 17), (17,)], 3)


@pytest.mark.parametrize("statistics", ["current", "delayed"])
def test_no_drift(trained, statistics) -> None:
    follow(RuleConfig(statistics=statistics), trained, [(17,), (3, 5)], 20)


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "config"),
    [
        (torch.float32, torch.bfloat16, RuleConfig(progress=True)),
        (torch.bfloat16, torch.float32, RULES["lean"]),
    ],
)
def test_training_is_that_of_the_eager_step(dtype, state_dtype, config, trained, monkeypatch) -> None:
    monkeypatch.setattr(steps, "WAITING_ELEMENTS", 200)
    rule, generator = UpdateRule(config), torch.Generator().manual_seed(1)
    shapes = [(), (7,), (20, 17), (3, 4), (150,), (2, 3, 4)]
    meta, start = trained(rule), draw(generator, shapes, dtype)
    start[2] = start[2].T.contiguous().T
    start[3], start[4] = start[3].float(), start[4].half()
    models, optimizers = [], []
    for backend in ("eager", "triton"):
        params = [nn.Parameter(param.clone(memory_format=torch.preserve_format)) for param in start]
        groups = [
            {"params": params[:2], "weight_decay": 0.1, "maximize": True},
            {"params": params[2:4], "orthogonalize": True},
            {"params": params[4:], "lr": torch.tensor([1e-3], dtype=torch.float64)},
        ]
        models.append(params)
        options = {"lr": 1e-2, "rule": rule, "meta": meta, "state_dtype": state_dtype, "backend": backend}
        options["total_steps"] = 5 if config.progress else None
        optimizers.append(LearnedOptimizer(groups, **options))
    for step in range(3):
        grads = [grad.to(param.dtype) for grad, param in zip(draw(generator, shapes), start, strict=True)]
        for params, optimizer in zip(models, optimizers, strict=True):
            for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
                wide = grad.repeat_interleave(2, -1)[..., ::2] if grad.ndim else grad
                param.grad = None if step == 1 and index == 1 else wide
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimizer.step()
    spacing = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
    exact = state_dtype == torch.float32  # else a unit in the last place may cross a rounding of the memory
    eager, fused = optimizers
    for one, other in zip(*models, strict=True):
        assert other.stride() == one.stride()
        bound = 2 * max(spacing[one.dtype], 0.0 if exact else 1e-4)
        torch.testing.assert_close(other, one, rtol=bound, atol=bound)
        ours, theirs = fused.state[other], eager.state[one]
        assert ours["step"] == theirs["step"]
        if exact:
            torch.testing.assert_close(ours["memory"], theirs["memory"], rtol=1e-5, atol=1e-6)
        else:
            assert (ours["memory"] == theirs["memory"]).float().mean() > 0.99


def test_a_gradient_that_is_not_finite_leaves_its_tensor_alone(make) -> None:
    params = [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(5))]
    optimizer = make(params, backend="triton", weight_decay=0.5)
    optimizer.param_groups[0]["orthogonalize"] = True
    for param in params:
        param.grad = torch.arange(1.0, param.numel() + 1).reshape(param.shape)
    params[0].grad[1, 1] = float("inf")
    params[2].grad[4] = float("nan")
    optimizer.step()
    assert optimizer.skipped_gradients() == {0: 1, 2: 1}
    assert torch.equal(params[0], torch.ones(3, 4))
    assert torch.equal(params[2], torch.ones(5))
    assert not optimizer.state[params[2]]["memory"].any()
    assert (params[1] < 1).any()


@pytest.mark.parametrize("waves", [2, 3])
def test_rounding_is_that_of_the_eager_step_bit_for_bit(waves, adam_rule) -> None:
    """With as many rows of memory as share a hash, and with more."""
    memory = FLTConfig(wave_betas=(0.9,) * waves, wave_frequencies=(0.25,) * waves)
    require_the_same_rounding(UpdateRule(replace(adam_rule.config, memory=memory)), "triton", rows=20 * waves)


def test_tensors_together_and_each_alone_are_the_same_and_repeat(trained) -> None:
    rule, generator = UpdateRule(), torch.Generator().manual_seed(4)
    shapes = [(7,), (9, 17), (600,)]
    meta, params, fused = trained(rule), draw(generator, shapes), get_backend("triton")(rule)
    grads = draw(generator, shapes)
    together, _ = fused(meta, rule.init_state(params), grads, params)
    again, _ = fused(meta, rule.init_state(params), grads, params)
    for direction, same, param, grad in zip(together, again, params, grads, strict=True):
        (alone,), _ = fused(meta, rule.init_state([param]), [grad], [param])
        assert torch.equal(alone, direction)
        assert torch.equal(same, direction)


def test_addresses_are_sent_anew_only_when_they_change(make) -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = make([param], backend="triton")
    tables = []
    for step in range(3):
        param.grad = torch.arange(3.0) if step != 1 else param.grad
        optimizer.step()
        (known,) = optimizer._update._steps._batches.values()
        tables.append(known._table)
    assert tables[0] is tables[1]
    assert tables[1] is not tables[2]


def test_what_is_only_captured_is_not_taken_for_sent(make, monkeypatch) -> None:
    """A copy that a graph has captured is done when the graph is replayed, and never for another step."""
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.arange(3.0)
    optimizer = make([param], backend="triton")
    monkeypatch.setattr(steps, "capturing", lambda _: True)
    optimizer.step()
    fused = optimizer._update._steps
    assert not fused._batches
    monkeypatch.undo()
    optimizer.step()
    (known,) = fused._batches.values()
    monkeypatch.setattr(steps, "capturing", lambda _: True)
    optimizer.step()
    assert [(batch is known, table is known._table) for batch, table in fused._captured] == [
        (False, False),
        (True, True),
    ]


def test_parameters_count_their_changes(make) -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = make([param], backend="triton")
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_elements_past_two_to_the_31(tmp_path, adam_rule, monkeypatch) -> None:
    """The last elements of a matrix that is a file of holes, by the one program that takes them."""
    monkeypatch.undo()
    rule = UpdateRule(replace(adam_rule.config, memory=MomentsConfig(betas=(0.9,)), statistics="delayed"))
    shape = (2**17 + 1, 2**14)
    size = shape[0] * shape[1]

    def holes(name: str, *shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.from_file(str(tmp_path / name), True, count, dtype=torch.bfloat16).reshape(shape)

    param, grad = holes("param", *shape), holes("grad", *shape)
    state = new_state(torch.zeros(1), 2, torch.bfloat16, statistics=4) | {
        "memory": holes("memory", 2, *shape)
    }
    grad.view(-1)[-geometry.TILE :] = 2.0
    move = Move(param, grad, state, lr=0.5)
    fused = get_backend("triton")(rule)
    each = batch.Batch(batch.Kind.of(move), [shape], fused.sizes)
    (place,) = each.geometry.places
    assert (place.tiles - 1) * geometry.TILE > 2**31
    last = place._replace(first_tile=1 - place.tiles, first_patch=1 - place.down * place.across)
    each._sent[0].target.copy_(torch.tensor(last))
    table = each.table([move])
    numbers = numbers_of(recipe_of(rule, rule.init_meta()), fused.sizes)
    measure, _, directions, _ = each.launches(numbers, table, table.options([move]))
    workspace = measure.arguments["workspace"]
    steps.run(measure._replace(programs=1))
    sums = workspace[place.patch_sums :][3 * (place.down * place.across - 1) :][:3]
    wide = geometry.PATCH[1]
    assert sums[:2].tolist() == [4.0 * wide] * 2  # of the one row that is left for the last patch
    lighter = {name: directions.arguments[name] for name in measuring.find_finite.arg_names}
    steps.run(batch.Launch(measuring.find_finite, 1, lighter))
    assert workspace[place.tile_sums + place.tiles - 1] == 4.0 * geometry.TILE
    found = workspace[: geometry.statistics_of(fused.sizes)].zero_()
    found[:10] = torch.tensor([1.0, 1.0, 0.0, *([1.0] * 4), 0.0, 1.0, 1.0])  # the first step of all
    workspace[place.row_roots + shape[0] - 1] = 2.0
    workspace[place.column_roots : place.column_roots + shape[1]] = 1.0
    steps.run(directions._replace(programs=1))
    left = workspace[place.tile_sums :][4 * (place.tiles - 1) :][:4]
    assert left.tolist() == [geometry.TILE, geometry.TILE, 4.0 * geometry.TILE, 0.0]
    ends = slice(size - geometry.TILE - 2, size)
    moved = [0.0, 0.0] + [1.0] * geometry.TILE
    assert param.view(-1)[ends].tolist() == [-0.5 * each for each in moved]
    assert state["memory"].view(2, -1)[0, ends].tolist() == [2.0 * each for each in moved]
    assert state["memory"].view(2, -1)[1, ends].tolist() == [4.0 * each for each in moved]

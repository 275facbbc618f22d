import errno
import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.architecture import LEAN, SHAPED
from learned_opt.backends import get_backend
from learned_opt.backends.native import BuildError, build, update
from learned_opt.backends.recipe import Sizes
from learned_opt.memory import FLTConfig, LSTMConfig, MomentsConfig
from tests.learned_opt.training import require_the_same_rounding

SHAPES = [(), (1,), (7,), (17,), (1023,), (0,), (0, 3), (33, 17), (2, 3, 4, 5), (3, 2, 2, 2, 2), (3, 6000)]
"""Of ranks 0 to 5, empty, narrow and wide, and beyond the elements that one block and one tile hold."""
RULES = {
    "base": RuleConfig(),
    "no-scale": RuleConfig(scale="none", epsilon=0.0),
    "moments": RuleConfig(scale="rms", memory=MomentsConfig(betas=(0.9,), mixed_betas=(0.5, 0.99))),
    "delayed": RuleConfig(statistics="delayed"),
    "lean": LEAN,
    "four-rows": replace(LEAN, memory=FLTConfig(betas=(0.9,), wave_betas=(0.97,), wave_frequencies=(0.05,))),
    "spectrum": replace(LEAN, memory=FLTConfig(reading="spectrum")),
    "shaped": SHAPED,
    "lean-bounded": replace(LEAN, scale="rms"),
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


def draw(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("name", RULES)
def test_directions_and_state_are_those_of_the_definition(name, trained) -> None:
    rule, generator = UpdateRule(RULES[name]), torch.Generator().manual_seed(0)
    meta, params = trained(rule), draw(generator)
    exact = [param.double() for param in params]
    exact_meta = {key: tensor.double() for key, tensor in meta.items()}
    native = get_backend("native")(rule)
    state, expected = rule.init_state(params), rule.init_state(exact, dtype=torch.float64)
    totals = torch.linspace(40, 500, len(params))  # for a rule that goes by them
    for step in range(40):
        grads = [grad * 10.0 ** (step % 5 - 2) for grad in draw(generator)]
        if step < 5:
            grads[3].zero_()
            grads[7][2:5] = 0
        if step in (0, 20):
            grads[4][1000] = float("nan")
            grads[10][2, 5999] = float("-inf")
        directions, state = native(meta, state, grads, params, total_steps=totals)
        wanted, expected = rule.update(
            exact_meta, expected, [grad.double() for grad in grads], exact, total_steps=totals
        )
        for direction, each in zip(directions, wanted, strict=True):
            torch.testing.assert_close(direction.double(), each, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state["memory"].double(), expected["memory"], rtol=1e-5, atol=1e-5)
        if "statistics" in expected:
            torch.testing.assert_close(
                state["statistics"].double(), expected["statistics"], rtol=1e-5, atol=1e-4
            )
        assert torch.equal(state["step"], expected["step"])
        assert torch.equal(state["skipped"], expected["skipped"])


@pytest.mark.parametrize("name", RULES)
def test_from_a_state_in_bfloat16_directions_are_nearly_those_of_the_definition(name, trained) -> None:
    rule, generator = UpdateRule(RULES[name]), torch.Generator().manual_seed(2)
    meta, params = trained(rule), draw(generator)
    exact, exact_meta = (
        [param.double() for param in params],
        {key: each.double() for key, each in meta.items()},
    )
    native, state = get_backend("native")(rule), rule.init_state(params, dtype=torch.bfloat16)
    totals = torch.full((len(params),), 100.0)
    for step in range(20):
        grads = [grad * 10.0 ** (step % 5 - 2) for grad in draw(generator)]
        same = {key: tensor.double() for key, tensor in state.items()}
        wanted, _ = rule.update(
            exact_meta, same, [grad.double() for grad in grads], exact, total_steps=totals
        )
        directions, state = native(meta, state, grads, params, total_steps=totals)
        largest = max(float(each.abs().max()) for each in wanted if each.numel())
        for direction, each in zip(directions, wanted, strict=True):
            torch.testing.assert_close(direction.double(), each, rtol=0, atol=0.01 * largest)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("statistics", ["current", "delayed"])
def test_training_is_that_of_the_eager_step(dtype, state_dtype, statistics, trained, threads) -> None:
    rule, generator = UpdateRule(RuleConfig(statistics=statistics)), torch.Generator().manual_seed(1)
    meta, start = trained(rule), draw(generator, dtype)
    start[7] = start[7].T.contiguous().T
    options = {"lr": 1e-2, "rule": rule, "meta": meta, "state_dtype": state_dtype}
    models, optimizers = [], []
    for backend in ("eager", "native"):
        params = [nn.Parameter(param.clone(memory_format=torch.preserve_format)) for param in start]
        groups = [
            {"params": params[:5], "weight_decay": 0.1, "maximize": True},
            {"params": params[5:9], "orthogonalize": True},
            {"params": params[9:], "lr": torch.tensor(1e-3)},
        ]
        models.append(params)
        optimizers.append(LearnedOptimizer(groups, backend=backend, **options))
    for step in range(12):
        grads = draw(generator, dtype)
        if step == 3:
            grads[4][0] = grads[8][0] = float("inf")
        for params, optimizer in zip(models, optimizers, strict=True):
            for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
                wide = grad.repeat_interleave(2, -1)[..., ::2] if grad.ndim else grad
                param.grad = None if step == 5 and index == 2 else wide
            if step == 3:
                with pytest.warns(UserWarning, match="not finite"):
                    optimizer.step()
            else:
                optimizer.step()
    eager, native = optimizers
    assert native.skipped_gradients() == eager.skipped_gradients() == {4: 1, 8: 1}
    spacing = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    if (
        state_dtype == torch.bfloat16
    ):  # where one unit in the last place crosses a rounding, the memory differs
        spacing = max(spacing, 1e-4)
    for one, other in zip(*models, strict=True):
        assert other.is_contiguous() == one.is_contiguous()
        torch.testing.assert_close(other, one, rtol=2 * spacing, atol=2 * spacing)
        ours, theirs = native.state[other], eager.state[one]
        assert ours["step"] == theirs["step"]
        if state_dtype == torch.float32:
            torch.testing.assert_close(ours["memory"], theirs["memory"], rtol=1e-5, atol=1e-6)
        elif ours["memory"].numel():
            assert (ours["memory"] == theirs["memory"]).float().mean() > 0.995


def test_every_group_has_its_number_of_steps(trained) -> None:
    rule, generator = UpdateRule(RuleConfig(progress=True)), torch.Generator().manual_seed(5)
    meta, start = trained(rule), draw(generator)
    models, optimizers = [], []
    for backend in ("eager", "native"):
        models.append([nn.Parameter(param.clone()) for param in start])
        groups = [{"params": models[-1][:5], "total_steps": 4}, {"params": models[-1][5:], "total_steps": 99}]
        optimizers.append(LearnedOptimizer(groups, rule=rule, meta=meta, backend=backend))
    for _ in range(5):
        for index, grad in enumerate(draw(generator)):
            for params in models:
                params[index].grad = grad
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(*models, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("waves", [2, 3])
def test_rounding_is_that_of_the_eager_step_bit_for_bit(waves, adam_rule) -> None:
    """With as many rows of memory as share a hash, and with more."""
    memory = FLTConfig(wave_betas=(0.9,) * waves, wave_frequencies=(0.25,) * waves)
    require_the_same_rounding(UpdateRule(replace(adam_rule.config, memory=memory)), "native", rows=300)


def test_narrower_vectors_give_the_same(narrower, trained) -> None:
    rule, generator = UpdateRule(RULES["waves"]), torch.Generator().manual_seed(6)
    meta, start = trained(rule), draw(generator, torch.float16)
    models, optimizers = [], []
    for backend in ("eager", "native"):
        models.append([nn.Parameter(param.clone()) for param in start])
        optimizers.append(LearnedOptimizer(models[-1], 1e-2, rule=rule, meta=meta, backend=backend))
    for _ in range(5):
        grads = draw(generator, torch.float16)
        for params, optimizer in zip(models, optimizers, strict=True):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            optimizer.step()
    eager, native = optimizers
    for one, other in zip(*models, strict=True):
        torch.testing.assert_close(other, one, rtol=2**-9, atol=2**-9)
        torch.testing.assert_close(
            native.state[other]["memory"], eager.state[one]["memory"], rtol=1e-5, atol=1e-6
        )


def test_the_start_is_adam(adam_rule, threads) -> None:
    generator = torch.Generator().manual_seed(3)
    ours = [
        nn.Parameter(torch.randn(90, 80, generator=generator)),
        nn.Parameter(torch.randn(5, generator=generator)),
    ]
    theirs = [nn.Parameter(param.detach().clone()) for param in ours]
    optimizer = LearnedOptimizer(ours, 1e-2, rule=adam_rule, meta=adam_rule.init_meta(), backend="native")
    adam = torch.optim.Adam(theirs, 1e-2, eps=0.0)
    for _ in range(30):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        optimizer.step()
        adam.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_no_drift_over_a_long_run(trained, vit_gradients) -> None:
    """Gradients of a Vision Transformer, 2,000 steps, against the definition in float64."""
    rule = UpdateRule()
    meta, (params, gradients) = trained(rule), vit_gradients
    kept = [next(i for i, param in enumerate(params) if param.ndim == ndim) for ndim in (1, 2, 3, 4)]
    params = [params[i] for i in kept]
    exact = [param.double() for param in params]
    exact_meta = {key: tensor.double() for key, tensor in meta.items()}
    native = get_backend("native")(rule)
    state, expected = rule.init_state(params), rule.init_state(exact, dtype=torch.float64)
    for step in range(2000):
        grads = [gradients[step % len(gradients)][i] for i in kept]
        directions, state = native(meta, state, grads, params)
        wanted, expected = rule.update(exact_meta, expected, [grad.double() for grad in grads], exact)
        if step % 100 == 99:
            for direction, each in zip(directions, wanted, strict=True):
                assert (direction - each).norm() <= 1e-5 * each.norm()
            for row, each in zip(state["memory"], expected["memory"], strict=True):
                assert (row - each).norm() <= 1e-5 * each.norm()


def test_a_group_of_tensors_and_each_alone_are_the_same(trained) -> None:
    rule, generator = UpdateRule(), torch.Generator().manual_seed(4)
    meta, params, native = trained(rule), draw(generator), get_backend("native")(rule)
    grads = draw(generator)
    together, _ = native(meta, rule.init_state(params), grads, params)
    for direction, param, grad in zip(together, params, grads, strict=True):
        (alone,), _ = native(meta, rule.init_state([param]), [grad], [param])
        assert torch.equal(alone, direction)


def test_parameters_count_their_changes(make) -> None:
    """As after any operation in place, so that autograd notices what a graph can no longer use."""
    param = nn.Parameter(torch.ones(3))
    optimizer = make([param], backend="native")
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_cannot_be_done_natively_is_done_eagerly_or_refused(make) -> None:
    params = [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, dtype=torch.float64))]
    for param in params:
        param.grad = torch.arange(4.0, dtype=param.dtype)
    make(params).step()
    torch.testing.assert_close(params[1].float(), params[0].detach())
    before = params[0].detach().clone()
    with pytest.raises(
        RuntimeError, match=r"'native' cannot update .* \(4,\): it is torch.float64; expected one of"
    ):
        make(params, backend="native").step()
    assert torch.equal(params[0], before)


def test_other_memories_are_refused_by_name_and_run_otherwise_by_default() -> None:
    rule = UpdateRule(RuleConfig(memory=LSTMConfig()))
    with pytest.raises(ValueError, match="no step for LSTMConfig; expected"):
        get_backend("native")(rule)
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    LearnedOptimizer([param], rule=rule, meta=rule.init_meta()).step()
    assert (param < 1).all()


def test_a_gradient_of_another_shape_is_refused() -> None:
    rule, params = UpdateRule(LEAN), [torch.ones(2, 3)]
    state = rule.init_state(params)
    with pytest.raises(ValueError, match=r"a gradient has shape \(6,\); expected its parameter's, \(2, 3\)"):
        get_backend("native")(rule)(rule.init_meta(), state, [torch.ones(6)], params)
    assert not state["memory"].any()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    monkeypatch.setattr(update, "_libraries", {})


def test_without_a_compiler_it_says_so_once_and_runs_eagerly(make, no_compiler) -> None:
    pairs = []
    for backend in ("auto", "eager"):
        param = nn.Parameter(torch.ones(3))
        param.grad = torch.arange(3.0)
        pairs.append((param, make([param], backend=backend)))
    with pytest.warns(UserWarning, match=r"a-compiler-that-is-not-there.*install a C\+\+ compiler.*CXX"):
        pairs[0][1].step()
    pairs[0][1].step()
    pairs[1][1].step()
    pairs[1][1].step()
    assert torch.equal(pairs[0][0], pairs[1][0])


def test_forced_without_a_compiler_it_says_why(make, no_compiler) -> None:
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = make([param], backend="native")
    with pytest.raises(RuntimeError, match=r"'native' cannot run: no C.. compiler.*not there"):
        optimizer.step()
    assert optimizer.state[param]["step"] == 0


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match="cxx failed: out of order; install"):
        build.load({"HEADS": 1})


def test_what_cannot_be_kept_is_said(tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("LEARNED_OPT_CACHE", str(tmp_path))
    monkeypatch.setattr(build.tempfile, "TemporaryDirectory", full)
    with pytest.raises(BuildError, match=r"No space left on device; name a folder .* LEARNED_OPT_CACHE"):
        build.load({"HEADS": 1})
    monkeypatch.setenv("CXX", 'g++ "')
    with pytest.raises(BuildError, match=r"CXX is 'g.. \"', which is no command"):
        build.load({"HEADS": 1})


def test_a_broken_file_in_the_cache_is_made_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEARNED_OPT_CACHE", str(tmp_path))
    sizes = Sizes(*(int(name in ("heads", "averages", "hidden", "directions")) for name in Sizes._fields))
    defines = {name.upper(): value for name, value in sizes._asdict().items()}
    path = tmp_path / "native" / f"native-{build._key(build.find_compiler(), defines)}.so"
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    assert build.load(defines).step
    written = path.stat().st_mtime_ns
    build.load(defines)
    assert path.stat().st_mtime_ns == written
    assert list(path.parent.iterdir()) == [path]

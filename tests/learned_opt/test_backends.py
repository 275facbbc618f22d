import warnings

import pytest
import torch
from torch import Tensor
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.architecture import LEAN
from learned_opt.backends import BACKENDS, compiled, get_backend
from learned_opt.memory import MEMORIES

SHAPES = [(4, 6), (5,), (4, 6)]


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'complied'.*did you mean 'compiled'\?"):
        get_backend("complied")
    assert sorted(BACKENDS) == ["auto", "compiled", "eager", "native", "triton"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [*(RuleConfig(memory=MEMORIES[name]()) for name in ("flt", "flt-v1", "s4d", "lstm")), LEAN],
    ids=["flt", "flt-v1", "s4d", "lstm", "lean"],
)  # the other memories are parts of these
def test_compiled_is_eager(trained, config: RuleConfig) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> list[Tensor]:
        return [torch.randn(shape, generator=generator) for shape in SHAPES]

    rule = UpdateRule(config)
    meta, params = trained(rule), draw()
    eager, fused = get_backend("eager")(rule), get_backend("compiled")(rule)
    expected, state = rule.init_state(params), rule.init_state(params)
    for step in range(120):
        grads = draw()
        if step in (0, 50):
            grads[2][1, 1] = float("nan")
        with torch.no_grad():
            wanted, expected = eager(meta, expected, grads, params)
            directions, state = fused(meta, state, grads, params)
        for a, b in zip(directions, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    assert state["skipped"].tolist() == [0, 0, 2]


def test_without_a_compiler_it_says_so_once_and_runs_eagerly(trained, monkeypatch) -> None:
    def broken(function):
        def fail(*args: object) -> None:
            raise InductorError(InvalidCxxCompiler(), None)

        return fail

    monkeypatch.setattr(compiled, "compiled_alone", broken)
    rule = UpdateRule()
    meta = trained(rule)
    params = [torch.ones(3, requires_grad=True)]
    twins = [torch.ones(3, requires_grad=True)]
    optimizer = LearnedOptimizer(params, rule=rule, meta=meta, backend="compiled")
    twin = LearnedOptimizer(twins, rule=rule, meta=meta)
    params[0].grad, twins[0].grad = torch.arange(3.0), torch.arange(3.0)
    with pytest.warns(UserWarning, match="install a C.. compiler"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    twin.step()
    twin.step()
    assert torch.equal(params[0], twins[0])


def test_other_failures_of_the_compiler_are_not_hidden(trained, monkeypatch) -> None:
    def broken(function):
        def fail(*args: object) -> None:
            raise InductorError(RuntimeError("a bug"), None)

        return fail

    monkeypatch.setattr(compiled, "compiled_alone", broken)
    rule = UpdateRule()
    param = torch.ones(3)
    with pytest.raises(InductorError, match="a bug"):
        get_backend("compiled")(rule)(trained(rule), rule.init_state([param]), [param], [param])

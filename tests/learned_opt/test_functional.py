import doctest
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap
from torch.testing import assert_close

from learned_opt import LearnedOptimizer, MomentsConfig, RuleConfig, UpdateRule, functional
from learned_opt.architecture import SHAPED

STEPS = 20
RULES = {
    "flt": RuleConfig(),
    "flt-none": RuleConfig(scale="none"),
    "moments-rms": RuleConfig(memory=MomentsConfig(), scale="rms"),
}
every_rule = pytest.mark.parametrize("config", RULES.values(), ids=RULES)


def start(*, zeros: bool, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A small network; its biases are 0 where asked for, and the loss does not depend on ``unused``."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"first": (5, 4), "first_bias": (5,), "gain": (), "second": (2, 5), "second_bias": (2,)}
    params = {
        name: 0.5 * torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()
    }
    if zeros:
        params["first_bias"].zero_()
        params["second_bias"].zero_()
        params["unused"] = torch.ones(2, 3, dtype=dtype)
    return params


def batches(steps: int, *, zeros: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs ``[steps, 8, 4]``; where asked for the last two are 0: their weights have no gradient."""
    inputs = torch.randn(steps, 8, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    if zeros:
        inputs[..., 2:] = 0
    return inputs


def loss(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = torch.tanh(inputs @ params["first"].T + params["first_bias"])
    outputs = params["gain"] * hidden @ params["second"].T + params["second_bias"]
    return (outputs - inputs[:, :2].sin()).square().mean()


def last_loss(
    meta: dict[str, Tensor], lr: Tensor, *, rule: UpdateRule, params: dict[str, Tensor], inputs: Tensor
) -> Tensor:
    """The loss after a step on each batch but the last, on which it is taken."""
    state = functional.init_state(rule, params)
    for batch in inputs[:-1]:
        grads = grad(loss)(params, batch)
        params, state = functional.update(rule, meta, state, grads, params, lr=lr, weight_decay=0.1)
    return loss(params, inputs[-1])


def central_differences(function, point: Tensor, step: float = 1e-6) -> Tensor:
    """Slope of ``function`` along each of the ``M`` axes, ``[M]``."""
    offsets = step * torch.eye(len(point), dtype=point.dtype)
    up, down = vmap(function)(torch.cat([point + offsets, point - offsets])).chunk(2)
    return (up - down) / (2 * step)


@every_rule
@pytest.mark.parametrize("zeros", [False, True], ids=["generic", "zeros"])
def test_meta_gradients_equal_central_differences(config, zeros, trained) -> None:
    rule = UpdateRule(config)
    meta = {name: each.requires_grad_() for name, each in trained(rule, dtype=torch.float64).items()}
    lr = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    final = partial(last_loss, rule=rule, params=start(zeros=zeros), inputs=batches(STEPS + 1, zeros=zeros))
    slopes = torch.autograd.grad(final(meta, lr), [*meta.values(), lr])

    def of_vector(vector: Tensor) -> Tensor:
        *pieces, rate = vector.split([each.numel() for each in (*meta.values(), lr)])
        shaped = {name: piece.view(meta[name].shape) for name, piece in zip(meta, pieces, strict=True)}
        return final(shaped, rate[0])

    vector = torch.cat([each.detach().reshape(-1) for each in (*meta.values(), lr)])
    expected = central_differences(of_vector, vector).split([each.numel() for each in slopes])
    for name, ours, theirs in zip([*meta, "lr"], slopes, expected, strict=True):
        assert theirs.any(), f"the loss does not depend on {name}"
        assert_close(
            ours.reshape(-1), theirs, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_transforms_nest(trained) -> None:
    """Forward over reverse, whose levels nothing that is kept between calls may carry on."""
    rule = UpdateRule()
    meta, params, inputs = trained(rule, dtype=torch.float64), start(zeros=False), batches(5, zeros=False)

    def final(lr: Tensor) -> Tensor:
        return last_loss(meta, lr, rule=rule, params=params, inputs=inputs)

    lr, step = torch.tensor(0.02, dtype=torch.float64), 1e-5
    found = hessian(final)(lr), grad(grad(final))(lr)  # before anything else
    expected = (grad(final)(lr + step) - grad(final)(lr - step)) / (2 * step)
    assert_close(found, (expected, expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inference_mode_leaves_nothing_behind(dtype) -> None:
    params = start(zeros=False, dtype=torch.float32)
    grads = grad(loss)(params, batches(1, zeros=False, dtype=torch.float32)[0])
    with torch.inference_mode():
        rule = UpdateRule(SHAPED)
        state = functional.init_state(rule, params, dtype=dtype)
        functional.update(rule, rule.init_meta(), state, grads, params, lr=0.1)
    meta = {name: each.requires_grad_() for name, each in rule.init_meta().items()}
    moved, state = params, functional.init_state(rule, params, dtype=dtype)
    for _ in range(2):
        moved, state = functional.update(rule, meta, state, grads, moved, lr=0.1)
    sum(each.float().sum() for each in moved.values()).backward()
    assert meta["head.shape_gain"].grad.isfinite().all()


@every_rule
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_the_optimizers_step(config, weight_decay, trained) -> None:
    rule = UpdateRule(config)
    meta = trained(rule)
    params = start(zeros=True, dtype=torch.float32)
    leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
    optimizer = LearnedOptimizer(leaves.items(), 0.02, weight_decay=weight_decay, rule=rule, meta=meta)
    state = functional.init_state(rule, params)
    for batch in batches(10, zeros=True, dtype=torch.float32):
        grads = grad(loss)(params, batch)
        for name, leaf in leaves.items():
            leaf.grad = grads[name]
        optimizer.step()
        params, state = functional.update(
            rule, meta, state, grads, params, lr=0.02, weight_decay=weight_decay
        )
    for name, leaf in leaves.items():
        assert_close(params[name], leaf.detach(), rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_leaves_its_tensor_as_it_is(trained) -> None:
    rule = UpdateRule()
    meta, params = trained(rule), start(zeros=False, dtype=torch.float32)
    grads = {name: torch.ones_like(param) for name, param in params.items()}
    grads["second"][0, 0] = float("nan")
    state = functional.init_state(rule, params)
    moved, after = functional.update(rule, meta, state, grads, params, lr=0.1, weight_decay=0.1)
    still = [name for name in params if torch.equal(moved[name], params[name])]
    assert still == ["second"]
    assert after["skipped"].tolist() == [float(name == "second") for name in params]


def test_nothing_is_changed_in_place(trained) -> None:
    rule = UpdateRule()
    meta, params = trained(rule), start(zeros=True)
    state, grads = functional.init_state(rule, params), grad(loss)(params, batches(1, zeros=True)[0])
    arguments = (meta, state, grads, params)
    before = [{name: each.clone() for name, each in argument.items()} for argument in arguments]
    functional.update(rule, *arguments, lr=0.1, weight_decay=0.1)
    assert_close(list(arguments), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.float64], torch.float64),
        ([torch.float32], torch.float32),
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.bfloat16, torch.float64], torch.float64),
    ],
)
def test_memory_is_as_precise_as_the_parameters_and_no_less_than_float32(dtypes, expected, trained) -> None:
    rule = UpdateRule()
    params = {str(index): torch.ones(3, dtype=dtype) for index, dtype in enumerate(dtypes)}
    state = functional.init_state(rule, params)
    assert state["memory"].dtype == expected
    assert functional.init_state(rule, params, dtype=torch.float16)["memory"].dtype == torch.float16
    moved, after = functional.update(rule, trained(rule), state, params, params, lr=0.1, weight_decay=0.1)
    assert [each.dtype for each in moved.values()] == dtypes
    assert after["memory"].dtype == expected


def test_names_that_differ_are_refused() -> None:
    rule = UpdateRule()
    params = start(zeros=False)
    state = functional.init_state(rule, params)
    meta, fewer = rule.init_meta(), {name: each for name, each in params.items() if name != "gain"}
    with pytest.raises(ValueError, match="parameter has no gradient: 'gain'"):
        functional.update(rule, meta, state, fewer, params, lr=0.1)
    with pytest.raises(ValueError, match="gradient has no parameter: 'gain'"):
        functional.update(rule, meta, state, params, fewer, lr=0.1)


def test_shapes_that_differ_are_refused() -> None:
    rule = UpdateRule()
    params, meta = {"a": torch.ones(2, 3), "b": torch.ones(2)}, rule.init_meta()
    state = functional.init_state(rule, params)
    with pytest.raises(ValueError, match=r"gradient of 'a' has shape \(3, 2\); expected .* \(2, 3\)"):
        functional.update(rule, meta, state, params | {"a": torch.ones(3, 2)}, params, lr=0.1)
    with pytest.raises(ValueError, match="the state is of 8 elements; expected one of these parameters' 6"):
        functional.update(rule, meta, state, {"a": params["a"]}, {"a": params["a"]}, lr=0.1)
    with pytest.raises(ValueError, match="there are no parameters"):
        functional.init_state(rule, {})


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (torch.ones(2, dtype=torch.complex64), "torch.strided of torch.complex64"),
        (torch.ones(2, dtype=torch.int64), "torch.strided of torch.int64"),
        (torch.ones(2).to_sparse(), "torch.sparse_coo of torch.float32"),
        (None, "None"),
    ],
)
def test_what_is_not_real_is_refused(wrong, found) -> None:
    rule = UpdateRule()
    params, meta = {"a": torch.ones(2)}, rule.init_meta()
    state = functional.init_state(rule, params)
    with pytest.raises(ValueError, match=f"gradient of 'a' is {found}; expected a dense tensor of real"):
        functional.update(rule, meta, state, {"a": wrong}, params, lr=0.1)
    with pytest.raises(ValueError, match=f"parameter 'a' is {found}; expected a dense tensor of real"):
        functional.update(rule, meta, state, params, {"a": wrong}, lr=0.1)
    with pytest.raises(ValueError, match=f"parameter 'a' is {found}; expected a dense tensor of real"):
        functional.init_state(rule, {"a": wrong})


def test_a_learning_rate_is_one_number() -> None:
    rule = UpdateRule()
    params, meta = {"gain": torch.tensor(1.0), "bias": torch.ones(3)}, rule.init_meta()
    state = functional.init_state(rule, params)
    expected = functional.update(rule, meta, state, params, params, lr=0.1, weight_decay=0.1)
    lr = torch.tensor([0.1])
    found = functional.update(rule, meta, state, params, params, lr=lr, weight_decay=0.1)
    assert_close(found, expected)
    with pytest.raises(ValueError, match=r"lr has shape \(3,\); expected a float or a tensor of one element"):
        functional.update(rule, meta, state, params, params, lr=torch.ones(3))


def test_autocast_does_not_reach_it(trained) -> None:
    rule = UpdateRule(RuleConfig(orthogonal=True))
    meta, params = trained(rule), {"weight": torch.linspace(-1, 1, 64).view(8, 8)}
    grads, state = {"weight": params["weight"].sin()}, functional.init_state(rule, params)
    expected = functional.update(rule, meta, state, grads, params, lr=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = functional.update(rule, meta, state, grads, params, lr=0.1)
    assert_close(found, expected, rtol=0, atol=0)


def test_the_example_in_the_docstring_runs() -> None:
    failed, attempted = doctest.testmod(functional)
    assert attempted
    assert not failed


def test_the_example_in_the_docs_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "rule.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(compile(example, str(page), "exec"), names)
    meta, lr = names["meta"], names["lr"]
    assert all(tensor.grad.isfinite().all() for tensor in (*meta.values(), lr))

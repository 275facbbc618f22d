"""What torch asks of its own optimizers, asked of ours, with the inputs that torch ships for it."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from learned_opt import LearnedOptimizer, MomentsConfig, RuleConfig, UpdateRule

pytest.importorskip("expecttest", reason="torch's own test inputs need the package expecttest")
common_optimizers = pytest.importorskip("torch.testing._internal.common_optimizers")
OptimizerInfo, OptimizerInput = common_optimizers.OptimizerInfo, common_optimizers.OptimizerInput


class Untrained(LearnedOptimizer):
    """Ours with the arguments that torch's harness gives."""

    def __init__(self, params, lr=1e-3, **options) -> None:
        rule = options.pop("rule", None) or UpdateRule()
        super().__init__(params, lr, **{"rule": rule, "meta": rule.init_meta(), **options})


def inputs(device: str, dtype: torch.dtype | None = None) -> list[OptimizerInput]:
    moments = UpdateRule(RuleConfig(memory=MomentsConfig()))
    return [
        OptimizerInput(params=None, kwargs={}, desc="default"),
        OptimizerInput(params=None, kwargs={"lr": 0.01}, desc="lr"),
        OptimizerInput(params=None, kwargs={"lr": torch.tensor(0.001)}, desc="tensor lr"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.1}, desc="weight decay"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.1, "maximize": True}, desc="maximize"),
        OptimizerInput(params=None, kwargs={"rule": moments}, desc="moments"),
    ]


INFO = OptimizerInfo(
    Untrained,
    optim_inputs_func=inputs,
    optim_error_inputs_func=common_optimizers.get_error_inputs_for_all_optims,
    supported_impls=(),
    not_og_supported_flags=(),
    supports_complex=False,
)
every_input = pytest.mark.parametrize("options", INFO.optim_inputs_func("cpu"), ids=lambda each: each.desc)


def pair(*, dtype: torch.dtype = torch.float32, contiguous: bool = True) -> tuple[nn.Parameter, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 5, 2, generator=generator)[..., 0] if not contiguous else None
    weight = torch.randn(10, 5, generator=generator) if weight is None else weight
    return nn.Parameter(weight.to(dtype)), nn.Parameter(torch.randn(10, generator=generator).to(dtype))


def loss_of(weight: Tensor, bias: Tensor) -> Tensor:
    return (weight.mv(torch.ones(5, dtype=weight.dtype)) + bias).pow(2).sum()


def fill(params: tuple[nn.Parameter, nn.Parameter]) -> Tensor:
    for param in params:
        param.grad = None
    loss = loss_of(*params)
    loss.backward()
    return loss


def steps(optimizer: Optimizer, params: tuple[nn.Parameter, nn.Parameter], count: int) -> None:
    for _ in range(count):
        fill(params)
        optimizer.step()


@pytest.mark.parametrize(
    "error", INFO.optim_error_inputs_func("cpu", torch.float32), ids=lambda e: e.optimizer_error_input.desc
)
def test_errors(error) -> None:
    wrong = error.optimizer_error_input
    raised, text = error.error_type, error.error_regex
    if issubclass(raised, Warning):  # of duplicates torch says "in future, this will cause an error"
        raised, text = ValueError, "stands twice in one group, at 0 and 1"
    with pytest.raises(raised, match=text):
        Untrained(wrong.params, **wrong.kwargs)


def test_an_empty_list_of_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        Untrained([])


@every_input
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [False, True])
def test_it_goes_the_right_way(options, contiguous, scheduled) -> None:
    params = pair(contiguous=contiguous)
    assert params[0].is_contiguous() == contiguous
    optimizer = Untrained(params, **options.kwargs)
    schedulers = [lr_scheduler.StepLR(optimizer, 10, 0.9), lr_scheduler.ReduceLROnPlateau(optimizer)]
    start = loss_of(*params).item()
    for _ in range(20):
        loss = optimizer.step(lambda: fill(params))
        if scheduled:
            schedulers[0].step()
            schedulers[1].step(loss.detach())
    end = loss_of(*params).item()
    assert end > start if options.kwargs.get("maximize") else end < start


@every_input
def test_without_gradients_nothing_happens(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)
    before = [param.detach().clone() for param in params], copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before[0], params, strict=True))
    torch.testing.assert_close(optimizer.state_dict(), before[1], rtol=0, atol=0)


@every_input
def test_zero_gradients_do_no_more_than_weight_decay(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)
    lr, decay = optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
    for param in params:
        param.grad = torch.zeros_like(param)
    before = [param.detach().clone() for param in params]
    optimizer.step()
    for param, start in zip(params, before, strict=True):
        torch.testing.assert_close(param.detach(), start * (1 - lr * decay), rtol=1e-7, atol=0)


@every_input
def test_it_can_be_printed(options) -> None:
    text = repr(Untrained(pair(), **options.kwargs))
    assert text.startswith("Untrained (")
    assert "weight_decay" in text


@every_input
def test_state_dict_is_deterministic(options) -> None:
    params = pair()
    optimizer = Untrained(params, **copy.deepcopy(options.kwargs))
    steps(optimizer, params, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    twins = tuple(nn.Parameter(param.detach().clone()) for param in params)
    twin = Untrained(twins, **copy.deepcopy(options.kwargs))
    twin.load_state_dict(saved)
    steps(optimizer, params, 5)
    steps(twin, twins, 5)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    torch.testing.assert_close(optimizer.state_dict(), twin.state_dict(), rtol=0, atol=0)


@every_input
def test_older_state_dicts_load(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)
    steps(optimizer, params, 2)
    older = copy.deepcopy(optimizer.state_dict())
    for group in older["param_groups"]:
        del group["maximize"]
    for state in older["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(older)
    assert all(isinstance(state["step"], Tensor) for state in optimizer.state.values())
    steps(optimizer, params, 1)


@pytest.mark.parametrize("saved_named", [True, False])
@pytest.mark.parametrize("loaded_named", [True, False])
def test_state_dicts_load_with_and_without_names(saved_named, loaded_named) -> None:
    def named(params, flag):
        return list(zip(("weight", "bias"), params, strict=True)) if flag else params

    params = pair()
    optimizer = Untrained(named(params, saved_named))
    steps(optimizer, params, 2)
    other = Untrained(named(pair(), loaded_named))
    other.load_state_dict(optimizer.state_dict())
    assert ("param_names" in other.state_dict()["param_groups"][0]) == (saved_named or loaded_named)


@every_input
def test_saved_state_loads_with_weights_only(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)
    steps(optimizer, params, 2)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=True), optimizer.state_dict(), rtol=0, atol=0)


def test_groups_go_by_their_own_options() -> None:
    params = pair()
    optimizer = Untrained(
        [{"params": params[:1], "lr": 0.0}, {"params": params[1:], "weight_decay": 0.5}], lr=1e-2
    )
    still = params[0].detach().clone()
    steps(optimizer, params, 2)
    assert torch.equal(params[0], still)
    optimizer.param_groups[0]["lr"] = 1e-2
    steps(optimizer, params, 1)
    assert not torch.equal(params[0], still)


def test_hooks_run_in_torchs_order() -> None:
    params = pair()
    optimizer = Untrained(params)
    calls: list[str] = []

    def note(name: str):
        return lambda *_: calls.append(name)

    removable = [
        optimizer.register_step_pre_hook(note("local pre")),
        optimizer.register_step_post_hook(note("local post")),
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_state_dict_pre_hook(note("state pre")),
        optimizer.register_state_dict_post_hook(note("state post")),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_post_hook(note("load post")),
    ]
    try:
        steps(optimizer, params, 1)
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in removable:
            handle.remove()
    assert calls == [
        *("global pre", "local pre", "local post", "global post"),
        *("state pre", "state post", "load pre", "load post"),
    ]
    assert not optimizer._optimizer_load_state_dict_pre_hooks


@every_input
def test_a_deep_copy_has_all_public_attributes(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)

    def public(each: Optimizer) -> set[str]:
        return {name for name in vars(each) if not name.startswith("_")}

    before = public(optimizer)
    assert public(copy.deepcopy(optimizer)) == before
    steps(optimizer, params, 2)
    assert public(copy.deepcopy(optimizer)) == public(optimizer) == before


@every_input
def test_it_has_state_for_every_parameter(options) -> None:
    params = pair()
    optimizer = Untrained(params, **options.kwargs)
    assert set(optimizer.state) == set(params)
    steps(optimizer, params, 1)
    assert all(optimizer.state[param]["memory"].any() for param in params)


def test_distributed_checkpointing_finds_state_laid_out() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model = nn.Linear(3, 2)
    optimizer = Untrained(model.parameters())
    saved = get_optimizer_state_dict(model, optimizer)
    assert set(saved["state"]) == {"weight", "bias"}
    assert all(int(state["step"]) == 0 for state in saved["state"].values())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    fresh = Untrained(model.parameters())
    set_optimizer_state_dict(model, fresh, saved)
    again = get_optimizer_state_dict(model, fresh)
    torch.testing.assert_close(again["state"], saved["state"], rtol=0, atol=0)
    assert again["param_groups"] == saved["param_groups"]

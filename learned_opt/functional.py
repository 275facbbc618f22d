"""Training with a rule as pure functions, so that gradients pass through it.

Parameters and gradients are dictionaries of tensors, as from ``dict(model.named_parameters())`` and as
`torch.func` takes and gives them. Nothing is changed in place: what 20 steps lead to can be differentiated
with respect to the meta-parameters, the learning rate and the starting weights.

Example:
    >>> import torch
    >>> from torch.func import functional_call, grad
    >>> from learned_opt import UpdateRule, functional
    >>> model, inputs, targets = torch.nn.Linear(3, 1), torch.randn(8, 3), torch.randn(8, 1)
    >>> def loss(params):
    ...     return (functional_call(model, params, inputs) - targets).square().mean()
    >>> rule = UpdateRule()
    >>> meta = {name: tensor.requires_grad_() for name, tensor in rule.init_meta().items()}
    >>> lr = torch.tensor(1e-2, requires_grad=True)
    >>> params = {name: param.detach() for name, param in model.named_parameters()}
    >>> state = functional.init_state(rule, params)
    >>> for _ in range(20):
    ...     params, state = functional.update(rule, meta, state, grad(loss)(params), params, lr=lr)
    >>> loss(params).backward()
    >>> [meta["memory.log_decay_rate"].grad.shape, lr.grad.shape]
    [torch.Size([3]), torch.Size([])]
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.precision import full_precision
from learned_opt.rule import UpdateRule
from learned_opt.selection import State

Params = dict[str, Tensor]


def init_state(rule: UpdateRule, params: Params, *, dtype: torch.dtype | None = None) -> State:
    """State before the first gradient.

    Args:
        rule: The rule.
        params: ``n`` tensors with ``N`` elements in all.
        dtype: Of the memory; by default float64 if a parameter is, else float32.

    Returns:
        ``memory`` ``[S, N]``, ``step`` and ``skipped`` ``[n]``, and for a rule whose statistics are delayed
        ``statistics`` ``[K + 3, n]``, all zero.

    Raises:
        ValueError: If there are no parameters, or one is not of real floating point.
    """
    if not params:
        raise ValueError("there are no parameters; expected at least one")
    for name, param in params.items():
        _check_real(f"parameter {name!r}", param)
    if dtype is None:
        dtype = reduce(torch.promote_types, (param.dtype for param in params.values()), torch.float32)
    return rule.init_state(list(params.values()), dtype=dtype)


def update(
    rule: UpdateRule,
    meta: Meta,
    state: State,
    grads: Params,
    params: Params,
    *,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    total_steps: float | Tensor | None = None,
) -> tuple[Params, State]:
    """Take one step: ``p (1 - lr weight_decay) - lr direction``, what `LearnedOptimizer.step` does.

    Pure, differentiable in all of its tensors, and safe under `torch.func.vmap` over a leading axis of every
    one of them. A tensor whose gradient is not finite stays as it is.

    Args:
        rule: The rule.
        meta: Its meta-parameters; they are used in the memory's dtype.
        state: As from `init_state`.
        grads: Gradient of each parameter, under its name.
        params: Parameters, in the order in which `init_state` took them.
        lr: Learning rate, a float or a tensor of one element.
        weight_decay: Decoupled weight decay.
        total_steps: How many steps there are, for a rule that goes by it; a number, or a tensor without axes.

    Returns:
        The next parameters, in their dtypes, and the next state.

    Raises:
        ValueError: If gradients and parameters differ in their names or shapes, one is not of real floating
            point, the state is of others, ``lr`` has several elements, or the rule lacks ``total_steps``.
    """
    _check(state, grads, params)
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr has shape {tuple(lr.shape)}; expected a float or a tensor of one element")
        lr = lr.reshape(())
    dtype = state["memory"].dtype
    meta = {name: tensor.to(dtype) for name, tensor in meta.items()}
    flat_grads, flat_params = [grads[name] for name in params], list(params.values())
    with full_precision(state["memory"].device):
        found, after = rule.update(meta, state, flat_grads, flat_params, total_steps=total_steps)
        directions = shaped(rule, meta, found, after)
    kept = params
    if weight_decay:
        live = 1 - (after["skipped"] - state["skipped"]).to(dtype)
        factors = (1 - lr * weight_decay * live).expand(len(params)).unbind()
        kept = {name: factor * params[name] for name, factor in zip(params, factors, strict=True)}
    moved = move(kept, directions, lr=lr)
    return {name: tensor.to(params[name].dtype) for name, tensor in moved.items()}, after


def _check(state: State, grads: Params, params: Params) -> None:
    for name in sorted(grads.keys() ^ params.keys()):
        lacking = "gradient has no parameter" if name in grads else "parameter has no gradient"
        raise ValueError(f"{lacking}: {name!r}; expected one of each")
    for name, param in params.items():
        _check_real(f"parameter {name!r}", param)
        _check_real(f"gradient of {name!r}", grads[name])
        if grads[name].shape != param.shape:
            shapes = f"{tuple(grads[name].shape)}; expected that of the parameter, {tuple(param.shape)}"
            raise ValueError(f"gradient of {name!r} has shape {shapes}")
    size = sum(param.numel() for param in params.values())
    if state["memory"].shape[-1] != size:
        raise ValueError(
            f"the state is of {state['memory'].shape[-1]} elements; expected one of these parameters' {size}"
        )


def _check_real(name: str, tensor: Tensor) -> None:
    if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.layout == torch.strided):
        found = f"{tensor.layout} of {tensor.dtype}" if isinstance(tensor, Tensor) else repr(tensor)
        raise ValueError(f"{name} is {found}; expected a dense tensor of real floating point")


def shaped(
    rule: UpdateRule,
    meta: Meta,
    directions: Sequence[Tensor],
    state: State,
    *,
    orthogonal: bool | None = None,
) -> list[Tensor]:
    """The directions with those of matrices made orthogonal, or as they are.

    Args:
        rule: The rule.
        meta: Its meta-parameters.
        directions: As from `UpdateRule.update`.
        state: What came with them.
        orthogonal: Which of these; by default as the rule's configuration says.
    """
    if not (rule.config.orthogonal if orthogonal is None else orthogonal):
        return list(directions)
    shaping, seconds = rule.shaping(meta), Layout.of(directions).split(state["memory"][-1])
    return [shaping(each, second) for each, second in zip(directions, seconds, strict=True)]


def move(params: Params, directions: Sequence[Tensor], *, lr: float | Tensor) -> Params:
    """``p - lr direction``, in the order of the parameters."""
    return {name: params[name] - lr * step for name, step in zip(params, directions, strict=True)}

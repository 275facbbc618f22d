"""What may stand in a parameter group, and which values it may take."""

from collections.abc import Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from learned_opt.identity import RULE_ID, VERSION
from learned_opt.names import unknown_name
from learned_opt.state import STATE_DTYPES

ANNOTATIONS = ("params", "param_names", "name", "group_name", "initial_lr", "lr_scale", RULE_ID, VERSION)
"""What a parameter group may hold beside the options: marks that schedulers, models and we leave."""


def check_group(
    group: Mapping[str, Any], defaults: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a new group with an unknown option, a wrong value or a parameter that is there already.

    Args:
        group: The new one.
        defaults: The options there are, with what a group without them has.
        others: The groups before it.

    Raises:
        ValueError: It names the option and its value, or the parameter.
    """
    for option in sorted(group.keys() - defaults.keys() - set(ANNOTATIONS)):
        raise ValueError(unknown_name("option of a parameter group", option, list(defaults)))
    check_options(group)
    differentiable = defaults["differentiable"]
    if group.get("differentiable", differentiable) != differentiable:
        raise ValueError(
            f"differentiable is {group['differentiable']} in a parameter group; expected {differentiable}, "
            "which the whole optimizer has"
        )
    _refuse_duplicates(group, others)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse wrong values of those options that are there.

    Raises:
        ValueError: It names the option and its value.
    """
    lr = options.get("lr", 0.0)
    for option, value in options.items():
        if option not in ANNOTATIONS and isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {option} must be 1-element; got shape {tuple(value.shape)}")
    if not _is_number(lr) or not 0.0 <= lr < inf:
        value = lr.item() if isinstance(lr, Tensor) else lr
        raise ValueError(f"Invalid learning rate: lr is {value!r}; expected a finite number of at least 0")
    weight_decay = options.get("weight_decay", 0.0)
    if not _is_number(weight_decay) or not 0.0 <= weight_decay < inf:
        raise ValueError(
            f"Invalid weight_decay value: {weight_decay!r}; expected a finite number of at least 0"
        )
    for option in ("maximize", "orthogonalize", "differentiable", "capturable"):
        if not isinstance(options.get(option, False), bool):
            raise ValueError(f"{option} is {options[option]!r}; expected True or False")
    total_steps = options.get("total_steps")
    if total_steps is not None and not (_is_whole(total_steps) and total_steps >= 1):
        raise ValueError(f"total_steps is {total_steps!r}; expected a whole number of at least 1")
    dtype = options.get("state_dtype", torch.float32)
    if dtype not in STATE_DTYPES:
        raise ValueError(f"state_dtype is {dtype}; expected one of {', '.join(map(str, STATE_DTYPES))}")


def check_total_steps(total_steps: int | None, *, wanted: bool) -> None:
    """Refuse a missing number of steps, and one that the rule would take no notice of.

    Args:
        total_steps: Of a parameter group.
        wanted: Whether the rule goes by it.

    Raises:
        ValueError: It names the option.
    """
    if wanted and total_steps is None:
        raise ValueError(
            "total_steps is missing; this rule goes by the number of steps that there will be: "
            "give total_steps=..."
        )
    if not wanted and total_steps is not None:
        raise ValueError(
            f"total_steps is {total_steps!r}; expected none, as this rule goes by no number of steps"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def _refuse_duplicates(group: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    params = group.get("params")
    if not isinstance(params, list | tuple):
        return
    owners = {id(param): index for index, other in enumerate(others) for param in other["params"]}
    first: dict[int, int] = {}
    for index, entry in enumerate(params):
        name, param = entry if isinstance(entry, tuple) else (index, entry)
        if not isinstance(param, Tensor):
            continue  # torch says what it expected
        if first.setdefault(id(param), index) != index:
            raise ValueError(
                f"parameter {name!r} of shape {tuple(param.shape)} stands twice in one group, "
                f"at {first[id(param)]} and {index}; expected it once"
            )
        if id(param) in owners:
            raise ValueError(
                f"some parameters appear in more than one parameter group: {name!r} of shape "
                f"{tuple(param.shape)} is in group {owners[id(param)]} already"
            )

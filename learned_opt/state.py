"""What the optimizer keeps for each parameter: packed for the rule, unpacked for the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.rule import State

MEMORY_DTYPE = torch.float32
KEYS = ("step", "skipped", "memory")

ParameterState = dict[str, Tensor]


@dataclass(frozen=True)
class Sealed:
    """A value that torch's ``load_state_dict`` hands through, where it would cast a bare tensor."""

    value: Any


def new_state(param: Tensor, rows: int) -> ParameterState:
    """State before the first gradient: ``memory`` ``[rows, *shape]``, scalar ``step`` and ``skipped``."""
    return {
        "step": torch.zeros((), dtype=MEMORY_DTYPE, device=param.device),
        "skipped": torch.zeros((), dtype=MEMORY_DTYPE, device=param.device),
        "memory": torch.zeros((rows, *param.shape), dtype=MEMORY_DTYPE, device=param.device),
    }


def copy_state(state: dict[str, Any], param: Tensor) -> ParameterState:
    """A state from elsewhere on the parameter's device and in our dtype, sharing nothing with it."""
    return {
        key: torch.as_tensor(state[key]).detach().to(param.device, MEMORY_DTYPE, copy=True).contiguous()
        for key in KEYS
    }


def check_state(state: Any, param: Tensor, rows: int, name: str) -> None:
    """Refuse a state that is not this parameter's under this rule.

    Raises:
        ValueError: It names the parameter, what was found and what was expected.
    """
    if not isinstance(state, dict) or set(state) != set(KEYS):
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state of {name} holds {found}; expected {', '.join(KEYS)}")
    for key in KEYS:
        expected = (rows, *param.shape) if key == "memory" else ()
        shape = tuple(torch.as_tensor(state[key]).shape)
        if shape != expected:
            raise ValueError(
                f"{key} of {name} has shape {shape}; expected {expected}: is it of another rule or model?"
            )


def pack(states: Sequence[ParameterState], params: Sequence[Tensor]) -> State:
    """The rule's state of all these parameters: ``memory`` ``[S, N]``, ``step`` and ``skipped`` ``[n]``."""
    memories = [
        state["memory"].reshape(len(state["memory"]), param.numel())
        for state, param in zip(states, params, strict=True)
    ]
    return {
        "memory": memories[0] if len(memories) == 1 else torch.cat(memories, 1),
        "step": torch.stack([state["step"] for state in states]),
        "skipped": torch.stack([state["skipped"] for state in states]),
    }


def unpack_into(states: Sequence[ParameterState], packed: State, layout: Layout) -> None:
    """Copy the rule's state back into each parameter's."""
    pieces = {
        "memory": layout.split(packed["memory"]),
        "step": list(packed["step"].unbind()),
        "skipped": list(packed["skipped"].unbind()),
    }
    for key in KEYS:
        torch._foreach_copy_([state[key] for state in states], pieces[key])

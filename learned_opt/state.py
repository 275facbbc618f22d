"""What the optimizer keeps for each parameter: packed for the rule, unpacked for the world."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.rounding import round_to_bfloat16
from learned_opt.selection import State
from learned_opt.sharding import laid_like, local, stacked_like

COMPUTE_DTYPE = torch.float32
STATE_DTYPES = (torch.float32, torch.bfloat16)
STATISTICS = "statistics"
"""A key beside ``step``, ``skipped`` and ``memory``, where the rule's statistics are delayed."""

ParameterState = dict[str, Tensor]


@dataclass(frozen=True)
class Sealed:
    """A value that torch's ``load_state_dict`` hands through, where it would cast a bare tensor."""

    value: Any


def new_state(param: Tensor, rows: int, dtype: torch.dtype, *, statistics: int = 0) -> ParameterState:
    """State before the first gradient.

    Args:
        param: Of what.
        rows: Floats of memory for each parameter.
        dtype: Of the memory.
        statistics: Floats for the whole tensor.

    Returns:
        ``memory`` ``[rows, *shape]``, scalar ``step`` and ``skipped``, and, where there are such,
        ``statistics`` ``[statistics]``.
    """
    state = {
        "step": torch.zeros((), dtype=COMPUTE_DTYPE, device=param.device),
        "skipped": torch.zeros((), dtype=COMPUTE_DTYPE, device=param.device),
        "memory": stacked_like(param, rows, dtype),
    }
    if statistics:
        state[STATISTICS] = torch.zeros(statistics, dtype=COMPUTE_DTYPE, device=param.device)
    return state


def copy_state(state: dict[str, Any], param: Tensor, dtype: torch.dtype) -> ParameterState:
    """A state from elsewhere on the parameter's device and in our dtypes, sharing nothing with it."""
    counts = {
        key: torch.as_tensor(state[key]).detach().to(param.device, COMPUTE_DTYPE, copy=True)
        for key in state
        if key != "memory"
    }
    memory = state["memory"].detach().to(param.device, dtype, copy=True)
    return {**counts, "memory": laid_like(memory, param).contiguous()}


def check_state(state: Any, param: Tensor, rows: int, name: str, *, statistics: int = 0) -> None:
    """Refuse a state that is not this parameter's under this rule.

    Raises:
        ValueError: It names the parameter, what was found and what was expected.
    """
    shapes = {"step": (), "skipped": (), "memory": (rows, *param.shape)}
    if statistics:
        shapes[STATISTICS] = (statistics,)
    if not isinstance(state, dict) or set(state) != set(shapes):
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state of {name} holds {found}; expected {', '.join(shapes)}")
    if not isinstance(state["memory"], Tensor):
        raise ValueError(f"memory of {name} is a {type(state['memory']).__name__}; expected a tensor")
    for key, expected in shapes.items():
        shape = tuple(torch.as_tensor(state[key]).shape)
        if shape != expected:
            raise ValueError(
                f"{key} of {name} has shape {shape}; expected {expected}: is it of another rule or model?"
            )


def pack(states: Sequence[ParameterState]) -> State:
    """The rule's state of these parameters: ``memory`` ``[S, N]``, float32; everything else ``[..., n]``."""
    parts = [local(state["memory"]) for state in states]
    memories = [part.reshape(len(part), -1 if part.numel() else 0).to(COMPUTE_DTYPE) for part in parts]
    memory = memories[0] if len(memories) == 1 else torch.cat(memories, 1)
    counts = {key: torch.stack([state[key] for state in states], -1) for key in _counts(states[0])}
    return {"memory": memory, **counts}


def unpack_into(states: Sequence[ParameterState], packed: State, layout: Layout) -> None:
    """Copy the rule's state back into each parameter's, rounding what is held in bfloat16."""
    memory = packed["memory"]
    if states[0]["memory"].dtype == torch.bfloat16:
        memory = round_to_bfloat16(memory, packed["step"], layout)
    torch._foreach_copy_([local(state["memory"]) for state in states], layout.split(memory))
    for key in _counts(packed):
        torch._foreach_copy_([state[key] for state in states], list(packed[key].unbind(-1)))


def replace(states: Sequence[ParameterState], packed: State, layout: Layout) -> None:
    """Put the rule's state in the place of each parameter's, with what it was computed from."""
    for index, (state, memory) in enumerate(zip(states, layout.split(packed["memory"]), strict=True)):
        state.update({key: packed[key][..., index] for key in _counts(packed)}, memory=memory)


def _counts(state: Iterable[str]) -> list[str]:
    return [key for key in state if key != "memory"]

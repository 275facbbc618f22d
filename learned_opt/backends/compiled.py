"""The rule through `torch.compile`: a few fused passes over memory in place of a hundred."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler
from torch.func import vmap

from learned_opt.backends.eager import UpdateFunction
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.selection import State
from learned_opt.sharding import Sharding

INDUCTOR_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 10_000,
    "realize_reads_threshold": 10_000,
    "realize_acc_reads_threshold": 10_000,
    "max_fusion_size": 10_000,
}
"""Inductor's defaults cut a long pointwise expression into many passes over memory."""

MISSING_COMPILER = (
    'backend "compiled" found no working compiler and runs eagerly, to the same result but slower; '
    "install a C++ compiler (Debian: apt install g++), or set the environment variable CXX to one"
)

Stacked = Callable[..., tuple[Tensor, State]]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_update(rule: UpdateRule) -> UpdateFunction:
    """Run the rule's own definition, fused by Inductor.

    Tensors of one shape are stacked and updated together, so that a model of many layers costs a few
    compilations, some seconds each, at its first step. Without a compiler on the machine it says so once and
    runs eagerly. Tensors cut over processes are updated eagerly too.
    """
    fused = _PerShape(rule)
    broken = False

    def update(
        meta: Meta,
        state: State,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        total_steps: Tensor | None = None,
        sharding: Sharding | None = None,
    ) -> tuple[list[Tensor], State]:
        nonlocal broken
        if not broken and sharding is None:
            try:
                return fused.update(meta, state, grads, params, total_steps)
            except BackendCompilerFailed as error:
                if not _compiler_is_missing(error.inner_exception):
                    raise
                broken = True
                warnings.warn(f"{MISSING_COMPILER} ({error.inner_exception})", stacklevel=2)
        return rule.update(meta, state, grads, params, total_steps=total_steps, sharding=sharding)

    return update


class _PerShape:
    """One compiled function for each number and shape of tensors that are updated together."""

    def __init__(self, rule: UpdateRule) -> None:
        def alone(
            meta: Meta, state: State, grad: Tensor, param: Tensor, total: Tensor | None
        ) -> tuple[Tensor, State]:
            directions, after = rule.update(meta, state, [grad], [param], total_steps=total)
            return directions[0], after

        self._stacked: Stacked = vmap(alone, in_dims=(None, 0, 0, 0, 0 if rule.config.progress else None))
        self._compiled: dict[tuple[int, ...], Stacked] = {}

    def update(
        self,
        meta: Meta,
        state: State,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        total_steps: Tensor | None,
    ) -> tuple[list[Tensor], State]:
        dtype = state["memory"].dtype
        layout = Layout.of(params)
        ones = (1,) * len(params)
        columns = {
            key: rows.split_with_sizes(layout.sizes if key == "memory" else ones, dim=-1)
            for key, rows in state.items()
        }
        directions: list[Tensor] = list(params)
        after = {key: list(pieces) for key, pieces in columns.items()}
        for members in _same_shape(layout.shapes):
            moves, states = self._function(len(members), layout.shapes[members[0]])(
                meta,
                {key: torch.stack([pieces[i] for i in members]) for key, pieces in columns.items()},
                torch.stack([grads[i].to(dtype) for i in members]),
                torch.stack([params[i].to(dtype) for i in members]),
                None if total_steps is None else total_steps[members, None],
            )
            for row, i in enumerate(members):
                directions[i] = moves[row]
                for key in after:
                    after[key][i] = states[key][row]
        return directions, {key: torch.cat(pieces, dim=-1) for key, pieces in after.items()}

    def _function(self, count: int, shape: tuple[int, ...]) -> Stacked:
        key = (count, *shape)
        if key not in self._compiled:
            self._compiled[key] = compiled_alone(self._stacked)
        return self._compiled[key]


def compiled_alone(function: Function, **options: Any) -> Function:
    """Compile a function for the shapes that it meets, apart from all others.

    Args:
        function: Of tensors, without a break in its graph.
        options: For Inductor, beside `INDUCTOR_OPTIONS`.
    """
    compile: Any = torch.compile  # its overloads lack isolate_recompiles
    return cast(
        Function,
        compile(
            function,
            dynamic=False,
            fullgraph=True,
            isolate_recompiles=True,
            options={**INDUCTOR_OPTIONS, **options},
        ),
    )


def _same_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    return list(groups.values())


def _compiler_is_missing(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, InvalidCxxCompiler | FileNotFoundError) or "Failed to find C compiler" in str(
            error
        ):
            return True
        error = error.__cause__
    return False

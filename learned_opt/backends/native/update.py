"""What a rule does to tensors, by the compiled step."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learned_opt.backends.native.build import BuildError
from learned_opt.backends.native.library import MEMORY_TYPES, Library, Move
from learned_opt.backends.native.recipe import Recipe, Sizes, recipe_of, sizes_of
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.rule import State, UpdateRule
from learned_opt.sharding import Sharding
from learned_opt.state import ParameterState

SLOWLY = "the step of the learned optimizer runs eagerly, to the same result but slower"

_libraries: dict[Sizes, Library | BuildError] = {}


def library_for(sizes: Sizes) -> Library | BuildError:
    """The compiled step, or why there is none; tried once a process."""
    if sizes not in _libraries:
        try:
            _libraries[sizes] = Library(sizes)
        except BuildError as error:
            _libraries[sizes] = error
    return _libraries[sizes]


class NativeUpdate:
    """`UpdateRule.update` in C++, and the same in place, with the parameters moved too.

    Args:
        rule: Its memory must be made of fixed averages and rotations.
        forced: Refuse what the compiled step cannot do, rather than leave it to the rule's own definition.

    Raises:
        ValueError: If the memory is another, and it is forced; it names the memory.
    """

    def __init__(self, rule: UpdateRule, *, forced: bool = True) -> None:
        self.rule, self.forced, self.sizes = rule, forced, sizes_of(rule)
        self._known: tuple[Meta, Recipe] | None = None
        if forced and self.sizes is None:
            raise ValueError(
                f"backend 'native' has no step for {type(rule.config.memory).__name__}; expected the memory "
                "FLTConfig or MomentsConfig: use backend='eager' or 'compiled'"
            )

    def library(self) -> Library | None:
        """The compiled step; None where there is none and it is not forced, which is said once.

        Raises:
            RuntimeError: If it is forced, and cannot be compiled.
        """
        if self.sizes is None:
            return None
        known = self.sizes in _libraries
        library = library_for(self.sizes)
        if isinstance(library, Library):
            return library
        if self.forced:
            raise RuntimeError(f"backend 'native' cannot run: {library}") from library
        if not known:
            warnings.warn(f"{SLOWLY}: {library}", stacklevel=2)
        return None

    def takes(self, library: Library, param: Tensor, grad: Tensor, state: ParameterState) -> bool:
        """Whether `step` can update this tensor.

        Raises:
            RuntimeError: If it is forced to, and cannot; it says why.
        """
        why = _obstacle(library, param, grad, state)
        if why and self.forced:
            raise RuntimeError(
                f"backend 'native' cannot update a parameter of shape {tuple(param.shape)}: {why}"
            )
        return why is None

    def step(self, library: Library, meta: Meta, moves: Sequence[Move]) -> int:
        """Update tensors in place; gives how many were skipped."""
        if self._known is None or self._known[0] is not meta:
            self._known = (meta, recipe_of(self.rule, meta))
        return library.step(self._known[1], moves)

    def __call__(
        self,
        meta: Meta,
        state: State,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        sharding: Sharding | None = None,
    ) -> tuple[list[Tensor], State]:
        """As `UpdateRule.update`."""
        library = self.library() if self.forced and sharding is None else None
        if library is None:
            return self.rule.update(meta, state, grads, params, sharding=sharding)
        memories = [
            piece.clone(memory_format=torch.contiguous_format)
            for piece in Layout.of(params).split(state["memory"])
        ]
        columns = {key: list(_by_tensor(held)) for key, held in state.items() if key != "memory"}
        moves = [
            Move(
                param.detach().contiguous(),
                grad.detach().contiguous(),
                {"memory": memories[i], **{key: column[i] for key, column in columns.items()}},
                direction=torch.empty(param.shape, dtype=torch.float32),
            )
            for i, (param, grad) in enumerate(zip(params, grads, strict=True))
        ]
        assert all(self.takes(library, move.param, move.grad, move.state) for move in moves)
        self.step(library, meta, moves)
        memory = torch.cat([each.reshape(len(each), -1 if each.numel() else 0) for each in memories], 1)
        directions = [move.direction for move in moves if move.direction is not None]
        return directions, {
            "memory": memory,
            **{key: torch.stack(column, -1) for key, column in columns.items()},
        }


def _by_tensor(counts: Tensor) -> Tensor:
    """A copy of ``[..., n]`` as ``[n, ...]``."""
    return counts.movedim(-1, 0).clone(memory_format=torch.contiguous_format)


def _obstacle(library: Library, param: Tensor, grad: Tensor, state: ParameterState) -> str | None:
    for name, tensor in (("it", param), ("its gradient", grad)):
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return f"{name} is a {type(tensor).__name__}; expected a plain tensor"
        if tensor.device.type != "cpu" or tensor.is_neg():
            return f"{name} is on {tensor.device}, negated lazily: {tensor.is_neg()}; expected it on the CPU"
        if tensor.dtype not in library.types:
            return f"{name} is {tensor.dtype}; expected one of {', '.join(map(str, library.types))}"
    memory, counts = state["memory"], [held for key, held in state.items() if key != "memory"]
    if memory.dtype not in MEMORY_TYPES or not memory.is_contiguous() or type(memory) is not Tensor:
        found = f"{type(memory).__name__} of {memory.dtype} with strides {memory.stride()}"
        return f"its memory is a {found}; expected it contiguous, float32 or bfloat16"
    if any(held.dtype != torch.float32 or not held.is_contiguous() for held in counts):
        return f"its counts are {', '.join(str(held.dtype) for held in counts)}; expected torch.float32"
    return None

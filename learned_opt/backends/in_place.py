"""Updating tensors in place, in one call for all of them: what the backends that can do so share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from learned_opt.backends.recipe import Recipe, recipe_of, sizes_of
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.selection import State
from learned_opt.state import STATE_DTYPES, ParameterState
from learned_opt.tokens import features_of_shape

SLOWLY = "the step of the learned optimizer runs eagerly, to the same result but slower"

L = TypeVar("L")
"""What a backend runs, compiled as far as that is done beforehand."""


class Move(NamedTuple):
    """A tensor to be updated, and how.

    Attributes:
        param: Contiguous.
        grad: Of its shape and on its device, likewise.
        state: Its state; advanced in place. The memory is float32 or bfloat16, the same for all of a call.
        sign: Of the gradient: -1 to ascend.
        lr: What the direction is multiplied with before it is taken off the parameter.
        weight_decay: Times ``lr``, the part of the parameter that is taken off before that.
        direction: Where the direction is written to, float32; the parameter then stays as it is.
        orthogonal: Make the direction orthogonal, of what the backend `shapes`.
        total_steps: How many steps there are, for a rule that goes by it.
        log_gain: Of its direction, as long as no step before tells of one.
    """

    param: Tensor
    grad: Tensor
    state: ParameterState
    sign: float = 1.0
    lr: float | Tensor = 0.0
    weight_decay: float = 0.0
    direction: Tensor | None = None
    orthogonal: bool = False
    total_steps: float = 1.0
    log_gain: float = 0.0


class InPlaceUpdate(ABC, Generic[L]):
    """`UpdateRule.update` in a few fused passes, and the same in place, with the parameters moved too.

    Args:
        rule: Its memory must be made of fixed averages and rotations.
        forced: Refuse what the passes cannot do, rather than leave it to the rule's own definition.

    Attributes:
        name: Of the backend.
        device_type: Of the tensors that it takes.

    Raises:
        ValueError: If it has no step for the rule, and it is forced; it says why.
    """

    name: ClassVar[str]
    device_type: str

    def __init__(self, rule: UpdateRule, *, forced: bool = True) -> None:
        self.rule, self.forced = rule, forced
        self.sizes = sizes_of(rule)
        self._known: tuple[Meta, Recipe, Recipe] | None = None
        self._gains: dict[torch.Size, float] = {}
        if forced and isinstance(self.sizes, str):
            raise ValueError(
                f"backend {self.name!r} has no step for {self.sizes}: use backend='eager' or 'compiled'"
            )

    @abstractmethod
    def library(self) -> L | None:
        """What it runs; None where there is none and it is not forced, which is said once.

        Raises:
            RuntimeError: If it is forced, and there is none; it says why.
        """

    @abstractmethod
    def types(self, library: L) -> tuple[torch.dtype, ...]:
        """Those of parameters and gradients that it takes."""

    @abstractmethod
    def run(self, library: L, recipe: Recipe, moves: Sequence[Move]) -> int:
        """As `step`, with the numbers of the rule."""

    def shapes(self, param: Tensor) -> bool:
        """Whether it can make the direction of such a parameter orthogonal itself."""
        return False

    def obstacle(self, library: L, param: Tensor, grad: Tensor, state: ParameterState) -> str | None:
        """Why `step` cannot update this tensor; None if it can."""
        return _obstacle(self.device_type, self.types(library), param, grad, state)

    def takes(self, library: L, param: Tensor, grad: Tensor, state: ParameterState) -> bool:
        """Whether `step` can update this tensor.

        Raises:
            RuntimeError: If it is forced to, and cannot; it says why.
        """
        why = self.obstacle(library, param, grad, state)
        if why and self.forced:
            raise RuntimeError(
                f"backend {self.name!r} cannot update a parameter of shape {tuple(param.shape)}: {why}"
            )
        return why is None

    def step(self, library: L, meta: Meta, moves: Sequence[Move]) -> int:
        """Update tensors in place.

        Args:
            library: As from `library`.
            meta: Meta-parameters, on the CPU; the same object as long as they are the same.
            moves: What `takes` takes.

        Returns:
            How many are known to have been left as they are, because their gradients are not finite.
        """
        if self._known is None or self._known[0] is not meta:
            of_matrices = recipe_of(self.rule, meta)
            own = self.rule.of_vectors(meta)
            of_vectors = of_matrices if own is meta else recipe_of(self.rule, own)
            self._known = meta, of_matrices, of_vectors
            self._gains = {}
        _, of_matrices, of_vectors = self._known
        if of_matrices is of_vectors:
            return self.run(library, of_matrices, moves)
        vectors = [move for move in moves if move.param.ndim < 2]
        parts = (
            (of_matrices, [move for move in moves if move.param.ndim > 1]),
            (of_vectors, [move._replace(log_gain=self._gain(meta, move.param.shape)) for move in vectors]),
        )
        return sum(self.run(library, recipe, part) for recipe, part in parts if part)

    def _gain(self, meta: Meta, shape: torch.Size) -> float:
        """Log of the gain of a vector."""
        if shape not in self._gains:
            told = torch.tensor([features_of_shape(shape)], device="cpu").mT
            self._gains[shape] = self.rule.gain_of_vectors(meta, told).item()
        return self._gains[shape]

    def __call__(
        self, meta: Meta, state: State, grads: Sequence[Tensor], params: Sequence[Tensor], **options: Any
    ) -> tuple[list[Tensor], State]:
        """As `UpdateRule.update`; the parts of tensors that are cut over processes by its own definition."""
        library = self.library() if self.forced and options.get("sharding") is None else None
        total_steps = options.get("total_steps")
        if library is None or (self.rule.config.progress and total_steps is None):
            return self.rule.update(meta, state, grads, params, **options)
        for param, grad in zip(params, grads, strict=True):
            if grad.shape != param.shape:
                found, own = tuple(grad.shape), tuple(param.shape)
                raise ValueError(f"a gradient has shape {found}; expected its parameter's, {own}")
        totals = torch.as_tensor(1.0 if total_steps is None else total_steps).expand(len(params)).tolist()
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
                direction=torch.empty(param.shape, dtype=torch.float32, device=param.device),
                total_steps=totals[i],
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


def changed(moves: Sequence[Move]) -> list[Tensor]:
    """The tensors that a step over these writes to."""
    moved = [move.param for move in moves if move.direction is None]
    return [*moved, *(tensor for move in moves for tensor in move.state.values())]


def _by_tensor(counts: Tensor) -> Tensor:
    """A copy of ``[..., n]`` as ``[n, ...]``."""
    return counts.movedim(-1, 0).clone(memory_format=torch.contiguous_format)


def _obstacle(
    device_type: str, types: Sequence[torch.dtype], param: Tensor, grad: Tensor, state: ParameterState
) -> str | None:
    for name, tensor in (("it", param), ("its gradient", grad)):
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return f"{name} is a {type(tensor).__name__}; expected a plain tensor"
        if tensor.device.type != device_type or tensor.is_neg():
            found = f"on {tensor.device}, negated lazily: {tensor.is_neg()}"
            expected = {"cpu": "the CPU", "cuda": "a CUDA device"}[device_type]
            return f"{name} is {found}; expected it on {expected}"
        if tensor.dtype not in types:
            return f"{name} is {tensor.dtype}; expected one of {', '.join(map(str, types))}"
    for key, held in state.items():
        if key == "memory":
            if held.dtype not in STATE_DTYPES or not held.is_contiguous() or type(held) is not Tensor:
                found = f"{type(held).__name__} of {held.dtype} with strides {held.stride()}"
                return f"its memory is a {found}; expected it contiguous, float32 or bfloat16"
        elif held.dtype is not torch.float32 or not held.is_contiguous():
            found = f"{held.dtype} with strides {held.stride()}"
            return f"its {key} is {found}; expected torch.float32, contiguous"
    return None

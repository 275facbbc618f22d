"""The compiled step of one architecture, as a function on tensors."""

from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_void_p, pointer
from math import prod

import torch
from torch import Tensor

from learned_opt.backends.in_place import Move, changed
from learned_opt.backends.native.build import load
from learned_opt.backends.recipe import Recipe, Sizes
from learned_opt.state import STATISTICS
from learned_opt.tokens import SHAPE_FEATURES, features_of_shape

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Job(Structure):  # the same as in blocks.h
    _fields_ = (
        ("param", c_void_p),
        ("grad", c_void_p),
        ("memory", c_void_p),
        ("step", c_void_p),
        ("skipped", c_void_p),
        ("statistics", c_void_p),
        ("direction", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("sign", c_float),
        ("lr", c_float),
        ("keep", c_float),
        ("total_steps", c_float),
        ("log_gain", c_float),
        ("shape", c_float * SHAPE_FEATURES),
        ("param_type", c_int32),
        ("grad_type", c_int32),
        ("matrix", c_int32),
    )


class Library:
    """The step compiled for one architecture.

    Args:
        sizes: What it is specialised to.

    Raises:
        BuildError: If it cannot be compiled or loaded.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._factored = bool(sizes.factored)
        compiled = load({name.upper(): value for name, value in sizes._asdict().items()})
        self._step = compiled.step
        self._step.restype = c_int64
        self._step.argtypes = (
            POINTER(_Job), c_int64, POINTER(c_double), POINTER(c_float), c_float, c_int, c_int, c_int
        )  # fmt: skip

    def step(self, recipe: Recipe, moves: Sequence[Move]) -> int:
        """Update tensors in place, in as many threads as torch has; other Python threads run meanwhile.

        Returns:
            How many were left as they are, because their gradients are not finite.
        """
        jobs = (_Job * len(moves))(*(_job(move, self._factored) for move in moves))
        skipped: int = self._step(
            jobs,
            len(moves),
            _pointer(recipe.rates, c_double),
            _pointer(recipe.weights, c_float),
            recipe.epsilon,
            recipe.scale,
            moves[0].state["memory"].dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        torch.autograd.graph.increment_version(changed(moves))
        return skipped


def _job(move: Move, factored: bool) -> _Job:
    param, grad, state, direction = move.param, move.grad, move.state, move.direction
    shape = param.shape
    matrix, lr = factored and len(shape) > 1, float(move.lr)
    return _Job(
        param.data_ptr(),
        grad.data_ptr(),
        state["memory"].data_ptr(),
        state["step"].data_ptr(),
        state["skipped"].data_ptr(),
        state[STATISTICS].data_ptr() if STATISTICS in state else None,
        None if direction is None else direction.data_ptr(),
        shape[0] if matrix else 1,
        prod(shape[1:]) if matrix else param.numel(),
        move.sign,
        lr,
        1 - lr * move.weight_decay,
        move.total_steps,
        move.log_gain,
        features_of_shape(shape),
        TYPES[param.dtype],
        TYPES[grad.dtype],
        matrix,
    )


def _pointer(tensor: Tensor, kind: type) -> object:
    return pointer(kind.from_address(tensor.data_ptr()))  # type: ignore[attr-defined]

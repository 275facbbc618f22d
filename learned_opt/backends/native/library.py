"""The compiled step of one architecture, as a function on tensors."""

from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_void_p, pointer
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.backends.in_place import Move, changed
from learned_opt.backends.native.build import load
from learned_opt.backends.recipe import Recipe, Sizes
from learned_opt.orthogonal import spectral_size
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
        ("orthogonal_rows", c_int64),
        ("spectral_size", c_float),
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
            POINTER(_Job), c_int64, POINTER(c_double), POINTER(c_float), c_float, c_int, c_float,
            POINTER(c_float), c_int, c_int, c_int
        )  # fmt: skip

    def step(self, recipe: Recipe, moves: Sequence[Move]) -> int:
        """Update tensors in place, in as many threads as torch has; other Python threads run meanwhile.

        Returns:
            How many were left as they are, because their gradients are not finite.
        """
        jobs = (_Job * len(moves))(*(_job(move, self._factored, recipe.spectral) for move in moves))
        skipped: int = self._step(
            jobs,
            len(moves),
            _pointer(recipe.rates, c_double),
            _pointer(recipe.weights, c_float),
            recipe.epsilon,
            recipe.scale,
            recipe.tempering,
            _pointer(recipe.polynomials, c_float),
            len(recipe.polynomials),
            moves[0].state["memory"].dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        torch.autograd.graph.increment_version(changed(moves))
        return skipped


class _Numbers(NamedTuple):
    """What a job says of a shape."""

    rows: int
    columns: int
    told: tuple[float, ...]
    matrix: bool
    orthogonal_rows: int
    spectral_size: float


@lru_cache(maxsize=4096)
def _numbers(shape: torch.Size, factored: bool, orthogonal: bool, spectral: bool) -> _Numbers:
    matrix, size = factored and len(shape) > 1, prod(shape)
    return _Numbers(
        shape[0] if matrix else 1,
        prod(shape[1:]) if matrix else size,
        features_of_shape(shape),
        matrix,
        shape[0] if orthogonal else 0,
        spectral_size(shape) if orthogonal and spectral else 1.0,
    )


def _job(move: Move, factored: bool, spectral: bool) -> _Job:
    param, grad, state, direction = move.param, move.grad, move.state, move.direction
    of_shape, lr = _numbers(param.shape, factored, move.orthogonal, spectral), float(move.lr)
    return _Job(
        param.data_ptr(),
        grad.data_ptr(),
        state["memory"].data_ptr(),
        state["step"].data_ptr(),
        state["skipped"].data_ptr(),
        state[STATISTICS].data_ptr() if STATISTICS in state else None,
        None if direction is None else direction.data_ptr(),
        of_shape.rows,
        of_shape.columns,
        move.sign,
        lr,
        1 - lr * move.weight_decay,
        move.total_steps,
        move.log_gain,
        of_shape.told,
        TYPES[param.dtype],
        TYPES[grad.dtype],
        of_shape.matrix,
        of_shape.orthogonal_rows,
        of_shape.spectral_size,
    )


def _pointer(tensor: Tensor, kind: type) -> object:
    return pointer(kind.from_address(tensor.data_ptr()))  # type: ignore[attr-defined]

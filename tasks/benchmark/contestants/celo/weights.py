"""Celo's weights, and the published file that holds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # channels of the feature groups, in order
_ARRAY = 1  # MessagePack extension type of flax's arrays


@dataclass(frozen=True, eq=False)
class CeloWeights:
    """All that Celo learned, float32; every matrix acts as ``x @ w + b``.

    Attributes:
        hidden: Hidden state of the schedule's LSTM before the first step, ``[64]``.
        cell: Its cell state, ``[64]``.
        linear: Weight ``[18, 64]`` and bias ``[64]`` of the schedule's input.
        rectified: Weight ``[18, 64]`` and bias ``[64]`` of its branch through a ReLU.
        gates: Weight ``[128, 256]`` and bias ``[256]`` of the LSTM; gates in the order input, cell, forget,
            output.
        rate: Weight ``[64, 1]`` and bias ``[1]`` of the logarithm of the learning rate.
        layers: Weights and biases of the update's perceptron: ``[30, 4]``, ``[4]``; ``[4, 4]``, ``[4]``;
            ``[4, 3]``, ``[3]``.
        digest: SHA-256 of the file.
    """

    hidden: Tensor
    cell: Tensor
    linear: tuple[Tensor, Tensor]
    rectified: tuple[Tensor, Tensor]
    gates: tuple[Tensor, Tensor]
    rate: tuple[Tensor, Tensor]
    layers: tuple[tuple[Tensor, Tensor], ...]
    digest: str

    def to(self, device: torch.device) -> CeloWeights:
        """The same weights on a device."""
        return CeloWeights(**{one.name: _moved(getattr(self, one.name), device) for one in fields(self)})


def read_weights(path: str | Path) -> CeloWeights:
    """Read the published weights.

    Args:
        path: The file ``theta.state`` of Celo's authors, or a folder that holds it.

    Returns:
        The weights, on the CPU.

    Raises:
        ValueError: If there is no such file, or it holds something else.
        ModuleNotFoundError: If the package ``msgpack`` is missing.
    """
    path = Path(path)
    path = path / "theta.state" if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"Celo's weights cannot be read from {path}: {error.strerror}") from error
    try:
        return _assembled(_unpacked(content), hashlib.sha256(content).hexdigest())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no weights of Celo ({type(error).__name__}: {error})") from error


def _unpacked(content: bytes) -> Any:
    """The file's tree of named float32 tensors."""
    try:
        import msgpack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Celo's weights need the package msgpack: pip install 'learned-opt[baselines]'"
        ) from error

    def array(code: int, payload: bytes) -> Tensor:
        if code != _ARRAY:
            raise ValueError(f"expected arrays as extension type {_ARRAY}, got {code}")
        shape, dtype, data = msgpack.unpackb(payload)
        if dtype != "float32":
            raise ValueError(f"expected float32, got {dtype}")
        return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(shape))

    try:
        return msgpack.unpackb(content, ext_hook=array)
    except msgpack.exceptions.UnpackException as error:
        raise ValueError("it is no MessagePack") from error


def _assembled(tree: Any, digest: str) -> CeloWeights:
    schedule, blocks, start = tree["rnn_params"], tree["ff_mod_stack"]["~"], tree["lstm_init_state"]

    def dense(branch: Any, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        return _shaped(branch["w"], inputs, outputs), _shaped(branch["b"], outputs)

    first = [_shaped(blocks[f"w0__{k}"], 1, width, 4)[0] for k, width in enumerate(WIDTHS)]
    return CeloWeights(
        hidden=_shaped(start["hidden"], 1, 64)[0],
        cell=_shaped(start["cell"], 1, 64)[0],
        linear=dense(schedule["linear_2"], 18, 64),
        rectified=dense(schedule["linear_1"], 18, 64),
        gates=dense(schedule["rnn/linear"], 128, 256),
        rate=dense(schedule["step_size"], 64, 1),
        layers=(
            (torch.cat(first), _shaped(blocks["b0"], 1, 4)[0]),
            (_shaped(blocks["w1"], 1, 4, 4)[0], _shaped(blocks["b1"], 1, 4)[0]),
            (_shaped(blocks["w2"], 1, 4, 3)[0], _shaped(blocks["b2"], 1, 3)[0]),
        ),
        digest=digest,
    )


def _shaped(found: Any, *shape: int) -> Tensor:
    """An array of the file, of this shape and finite."""
    if not isinstance(found, Tensor):
        raise TypeError(f"expected an array, got {type(found).__name__}")
    if tuple(found.shape) != shape:
        raise ValueError(f"expected shape {shape}, got {tuple(found.shape)}")
    if not found.isfinite().all():
        raise ValueError(f"expected finite numbers, got {found[~found.isfinite()][0].item()}")
    return found


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(_moved(item, device) for item in value) if isinstance(value, tuple) else value

"""Checks of shapes and dtypes shared by the attention functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def without_autocast(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a function of tensors keep its own dtypes inside ``torch.autocast``."""

    @functools.wraps(function)
    def call(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        devices = {x.device.type for x in args if isinstance(x, Tensor)}
        known = [device for device in devices if torch.amp.is_autocast_available(device)]
        active = [device for device in known if torch.is_autocast_enabled(device)]
        if not active:
            return function(*args, **options)
        with torch.autocast(active[0], enabled=False):
            return function(*args, **options)

    return call


def working_dtype(**tensors: Tensor) -> torch.dtype:
    """Dtype of features, sums and states: the widest of the inputs', at least float32.

    Raises:
        ValueError: If an input is not real floating point; the message names it.
    """
    dtype = torch.float32
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be real floating point, got {tensor.dtype}")
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_counts(**counts: int) -> None:
    """Raise ValueError unless every number is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_rank(pattern: str, rank: int, **tensors: Tensor) -> None:
    """Raise ValueError unless every tensor has ``rank`` axes, as ``pattern`` shows."""
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise ValueError(f"{name} must be {pattern}, got shape {list(tensor.shape)}")


def check_same(axis_name: str, axis: int, **tensors: Tensor) -> None:
    """Raise ValueError unless all tensors agree on one axis."""
    sizes = {name: tensor.shape[axis] for name, tensor in tensors.items()}
    if len(set(sizes.values())) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(
            f"{' and '.join(sizes)} disagree on {axis_name} (axis {axis}): "
            f"{', '.join(map(str, sizes.values()))}; shapes {shapes}"
        )


def check_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        placed = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{' and '.join(devices)} must be on one device, got {placed}")


def check_heads(token: Tensor, **tensors: Tensor) -> None:
    """Raise ValueError unless ``[H, ., .]`` tensors have the heads and device of ``[B, H, L, .]``."""
    check_device(token=token, **tensors)
    for name, tensor in tensors.items():
        if tensor.dim() == 3 and token.dim() == 4 and tensor.shape[0] not in (1, token.shape[1]):
            raise ValueError(
                f"{name} has {tensor.shape[0]} heads (axis 0) and the tokens {token.shape[1]} (axis 1): "
                f"{list(tensor.shape)} and {list(token.shape)}"
            )


def check_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> None:
    """Raise ValueError unless the three are ``[B, H, L, .]`` on one device and agree with one another."""
    check_rank("[B, H, L, .]", 4, query=query, key=key, value=value)
    check_device(query=query, key=key, value=value)
    check_same("B", 0, query=query, key=key, value=value)
    check_same("H", 1, query=query, key=key, value=value)
    check_same("L", 2, key=key, value=value)
    check_same("D", 3, query=query, key=key)
    if causal:
        check_same("L", 2, query=query, key=key)


def check_decay_rate(decay_rate: Tensor, leading: torch.Size) -> None:
    """Raise ValueError unless the rate broadcasts to the leading axes of the features."""
    padded = (1,) * (len(leading) - decay_rate.dim()) + tuple(decay_rate.shape)
    if len(padded) != len(leading) or any(a not in (1, b) for a, b in zip(padded, leading, strict=True)):
        raise ValueError(
            f"decay_rate must broadcast to the leading axes {list(leading)}, got {list(decay_rate.shape)}"
        )


def check_key_mask(key_mask: Tensor | None, key: Tensor) -> Tensor | None:
    """Raise ValueError unless the mask is boolean ``[B, L']`` beside keys ``[B, H, L', .]``.

    Returns:
        ``[B, 1, L']``, for all heads.
    """
    if key_mask is None:
        return None
    if key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be boolean, True where a key takes part, got {key_mask.dtype}")
    expected = [key.shape[0], key.shape[2]]
    if list(key_mask.shape) != expected:
        raise ValueError(f"key_mask must be [B, L'] = {expected}, got {list(key_mask.shape)}")
    check_device(key_mask=key_mask, key=key)
    return key_mask[:, None, :]

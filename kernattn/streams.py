"""Streams that know where they are and what they were begun with.

A state is a sum of key features, so it means something only beside the very draw that wrote it. A stream
keeps a constant copy of its draw, refuses another one, and saves both together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernattn.flt import causal_flt_attention, flt_step
from kernattn.linear import EPS
from kernattn.rpe import FourierSamples
from kernattn.spectral import (
    ComplexSpectrum,
    SpectralState,
    causal_spectral_attention,
    spectral_state,
    spectral_step,
)


class FltStream:
    """Causal FLT attention, some tokens at a time: `flt_step` and `causal_flt_attention` with their state.

    Args:
        samples: Frequencies ``[H, r, 1]`` and importance ratios; copied as constants.
        projection: ``[H, m, D + 2r]`` or ``[m, D + 2r]``, likewise.
        decay_rate: Per token, ``[H]``, non-negative, likewise.
        start: Position of the first token, an integer.

    Attributes:
        position: Of the next token.
        state: Sums so far, ``[B, H, m, V + 1]``, or None before the first token.
    """

    def __init__(
        self,
        samples: FourierSamples,
        projection: Tensor,
        *,
        decay_rate: Tensor | None = None,
        start: int = 0,
    ) -> None:
        self._draw = _copy(_named(samples, projection, decay_rate))
        self.position = start
        self.state: Tensor | None = None

    def check(self, samples: FourierSamples, projection: Tensor, *, decay_rate: Tensor | None = None) -> None:
        """Refuse to go on with another draw than the one the stream was begun with.

        Raises:
            ValueError: If a frequency, a ratio, the projection or the decay differs.
        """
        _refuse_change(self._draw, _named(samples, projection, decay_rate))

    def step(self, query: Tensor, key: Tensor, value: Tensor, *, eps: float = EPS) -> Tensor:
        """One token: ``[B, H, D]``, ``[B, H, D]`` and ``[B, H, V]`` to ``[B, H, V]``."""
        samples, projection, rate = self._parts()
        state = self.state
        if state is None:
            dtype = torch.promote_types(torch.float32, value.dtype)
            shape = (*value.shape[:-1], projection.shape[-2], value.shape[-1] + 1)
            state = value.new_zeros(shape, dtype=dtype)
        output, self.state = flt_step(
            state,
            query,
            key,
            value,
            samples=samples,
            projection=projection,
            step=self.position,
            decay_rate=rate,
            eps=eps,
        )
        self.position += 1
        return output

    def extend(
        self, query: Tensor, key: Tensor, value: Tensor, *, chunk: int = 64, eps: float = EPS
    ) -> Tensor:
        """Several tokens: ``[B, H, L, D]``, ``[B, H, L, D]`` and ``[B, H, L, V]`` to ``[B, H, L, V]``."""
        samples, projection, rate = self._parts()
        length = value.shape[-2]
        position = torch.arange(self.position, self.position + length, device=value.device)
        output, self.state = causal_flt_attention(
            query,
            key,
            value,
            samples=samples,
            projection=projection,
            position=position[:, None],
            decay_rate=rate,
            chunk=chunk,
            state=self.state,
            eps=eps,
        )
        self.position += length
        return output

    def state_dict(self) -> dict[str, Any]:
        """Position, sums and draw, for `torch.save`."""
        return {"position": self.position, "state": self.state, "draw": dict(self._draw)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved stream.

        Raises:
            ValueError: If it was begun with another draw.
        """
        _refuse_change(saved["draw"], self._draw)
        self.position, self.state = int(saved["position"]), saved["state"]

    def _parts(self) -> tuple[FourierSamples, Tensor, Tensor | None]:
        draw = self._draw
        samples = FourierSamples(draw["frequency"], draw["ratio_real"], draw["ratio_imag"])
        return samples, draw["projection"], draw.get("decay_rate")


class SpectralStream:
    """Causal attention under a complex spectrum, some tokens at a time.

    Args:
        spectrum: Of the mask; copied as constants.

    Attributes:
        state: Averages so far, or None before the first token.
    """

    def __init__(self, spectrum: ComplexSpectrum) -> None:
        self._draw = _copy(vars(spectrum))
        self.state: SpectralState | None = None

    def check(self, spectrum: ComplexSpectrum) -> None:
        """Refuse to go on with another spectrum than the one the stream was begun with.

        Raises:
            ValueError: If an amplitude, a phase, a decay or a frequency differs.
        """
        _refuse_change(self._draw, vars(spectrum))

    def step(
        self, query_features: Tensor, key_features: Tensor, value: Tensor, *, eps: float = EPS
    ) -> Tensor:
        """One token: ``[B, H, m]``, ``[B, H, m]`` and ``[B, H, V]`` to ``[B, H, V]``."""
        spectrum = ComplexSpectrum(**self._draw)
        state = spectral_state(key_features, value, spectrum) if self.state is None else self.state
        output, self.state = spectral_step(state, query_features, key_features, value, spectrum, eps=eps)
        return output

    def extend(
        self,
        query_features: Tensor,
        key_features: Tensor,
        value: Tensor,
        *,
        chunk: int = 64,
        eps: float = EPS,
    ) -> Tensor:
        """Several tokens: ``[B, H, L, m]``, ``[B, H, L, m]`` and ``[B, H, L, V]`` to ``[B, H, L, V]``."""
        output, self.state = causal_spectral_attention(
            query_features,
            key_features,
            value,
            ComplexSpectrum(**self._draw),
            chunk=chunk,
            state=self.state,
            eps=eps,
        )
        return output

    def state_dict(self) -> dict[str, Any]:
        """Averages and spectrum, for `torch.save`."""
        state = None if self.state is None else tuple(self.state)
        return {"state": state, "draw": dict(self._draw)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved stream.

        Raises:
            ValueError: If it was begun with another spectrum.
        """
        _refuse_change(saved["draw"], self._draw)
        self.state = None if saved["state"] is None else SpectralState(*saved["state"])


def _named(samples: FourierSamples, projection: Tensor, decay_rate: Tensor | None) -> dict[str, Tensor]:
    decay = {} if decay_rate is None else {"decay_rate": decay_rate}
    return {**samples._asdict(), "projection": projection, **decay}


def _copy(draw: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in draw.items()}


def _refuse_change(begun: dict[str, Tensor], now: dict[str, Tensor]) -> None:
    changed = sorted(begun.keys() ^ now.keys())
    for name in [name for name in begun if name in now]:
        before, after = begun[name], now[name].detach()
        if before.shape != after.shape or not torch.equal(before, after.to(before)):
            changed.append(name)
    if changed:
        raise ValueError(
            f"{' and '.join(changed)} changed since the stream began, and its state was written with the "
            "old draw: finish it with that, or begin a new stream after a redraw"
        )

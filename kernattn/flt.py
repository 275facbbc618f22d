"""FourierLearner (FLT) attention: Fourier features of positions beside the content, then positive features.

``q~ = [q / D^1/4, phi(r_i)]`` and ``k~ = [k / D^1/4, psi(r_j)]`` have ``q~ . k~ = q . k / sqrt(D) + N_ij``
with ``E N_ij = f(r_i - r_j)``, so that the positive features of both estimate ``exp(q . k / sqrt(D) + f)``.
Keep the amplitude ``G = mean_s |rho_s|`` at or below about 0.5 a head: the variance of the positive features
grows as ``exp(4 G)``.

Over time one token is one step, and positions enter through bounded phases: the stream needs only the gains
``exp(w_t)`` and ``exp(u_t)`` of `flt_gains`, which all streams of a head share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernattn._checks import (
    check_attention,
    check_device,
    check_key_mask,
    check_rank,
    check_same,
)
from kernattn.features import positive_features
from kernattn.fused import flt_features, positions_of
from kernattn.linear import (
    EPS,
    causal_linear_attention,
    linear_attention,
    linear_attention_step,
    mask_tokens,
)
from kernattn.performer import scale_content
from kernattn.rpe import FourierSamples, phase


def fourier_features(samples: FourierSamples, position: Tensor) -> tuple[Tensor, Tensor]:
    """Features of positions whose inner products estimate f.

    ``psi(r_j) = r^-1/2 sqrt|rho| [cos, sin](2 pi xi . r_j)``, and ``phi(r_i)`` the same with the phase of rho
    added to the angle, so that ``phi(r_i) . psi(r_j) = (1/r) Re sum_s rho_s exp(2 pi i xi_s . (r_i - r_j))``
    and ``|phi|^2 = |psi|^2 = G = mean_s |rho_s|``.

    The square root has no gradient where rho is exactly 0: there ``psi`` gives none.

    Args:
        samples: From the ``sample`` of a spectrum, or any frequencies and ratios.
        position: ``[L, l]``, or ``[B, L, l]`` for positions of each row's own; integers are exact at any
            distance.

    Returns:
        ``phi`` and ``psi``, each ``[H, L, 2r]`` or ``[B, H, L, 2r]``, in the dtype of the samples.

    Raises:
        ValueError: If the position dimensions disagree.
    """
    dtype = samples.frequency.dtype
    angle = 2 * math.pi * phase(samples.frequency, position).to(dtype)
    cosine, sine = angle.cos(), angle.sin()
    count = samples.frequency.shape[1]
    real, imag = (ratio.double()[:, None, :] / count for ratio in (samples.ratio_real, samples.ratio_imag))
    power = real.square() + imag.square()
    divisor = torch.where(power > 0, power, 1.0) ** 0.25
    root = torch.where(power > 0, divisor, 0.0).to(dtype)
    real, imag = (real / divisor).to(dtype), (imag / divisor).to(dtype)
    phi = torch.cat([real * cosine - imag * sine, real * sine + imag * cosine], dim=-1)
    psi = torch.cat([root * cosine, root * sine], dim=-1)
    return phi, psi


def extend(content: Tensor, fourier: Tensor) -> Tensor:
    """Put Fourier features beside the content: ``[x / D^1/4, fourier]``.

    Args:
        content: Queries or keys, ``[B, H, L, D]``.
        fourier: ``phi`` for queries, ``psi`` for keys, ``[H, L, 2r]`` or ``[B, H, L, 2r]``.

    Returns:
        ``[B, H, L, D + 2r]``, float32 or float64.
    """
    content = scale_content(content)
    fourier = fourier.to(content.dtype).expand(*content.shape[:-1], fourier.shape[-1])
    return torch.cat([content, fourier], dim=-1)


def flt_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: FourierSamples,
    projection: Tensor,
    position: Tensor | None = None,
    key_position: Tensor | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Bidirectional FLT attention, ``O(L m (D + 2r + V))``.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``.
        value: ``[B, H, L', V]``.
        samples: Frequencies ``[H, r, l]`` and importance ratios.
        projection: From `gaussian_projection`, ``[H, m, D + 2r]`` or ``[m, D + 2r]``.
        position: Of the queries, ``[L, l]`` or ``[B, L, l]``; ``0, 1, ..., L - 1`` by default.
        key_position: Of the keys, ``[L', l]`` or ``[B, L', l]``; those of the queries by default, which
            needs ``L' = L``.
        key_mask: False where a key is padding, ``[B, L']``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.

    References:
        Choromanski et al., 2024, https://arxiv.org/abs/2302.01925
    """
    check_attention(query, key, value, causal=key_position is None)
    key_mask = check_key_mask(key_mask, key)
    key = mask_tokens(key, key_mask)
    features = _features(query, key, samples, projection, position, key_position)
    return linear_attention(*features, value, key_mask=key_mask, eps=eps)


def causal_flt_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: FourierSamples,
    projection: Tensor,
    position: Tensor | None = None,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Causal FLT attention in chunks.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L, D]``.
        value: ``[B, H, L, V]``.
        samples: Frequencies ``[H, r, l]`` and importance ratios.
        projection: ``[H, m, D + 2r]`` or ``[m, D + 2r]``.
        position: ``[L, l]`` or ``[B, L, l]``; ``0, 1, ..., L - 1`` by default. To go on from a state, go on
            counting.
        decay_rate: Per token, ``[H]``, non-negative.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: Sums over the tokens before, ``[B, H, m, V + 1]``, from here or from `flt_step`, with the same
            samples and projection; `FltStream` sees to that.
        key_mask: False where a key is padding, ``[B, L]``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    check_attention(query, key, value, causal=True)
    key_mask = check_key_mask(key_mask, key)
    return causal_linear_attention(
        *_features(query, mask_tokens(key, key_mask), samples, projection, position, None),
        value,
        decay_rate=decay_rate,
        chunk=chunk,
        state=state,
        key_mask=key_mask,
        eps=eps,
    )


def flt_gains(samples: FourierSamples, projection: Tensor, step: int | Tensor) -> tuple[Tensor, Tensor]:
    """Gains of the stream at one step.

    ``exp(W_p phi(t) - G/2)`` to read and ``exp(W_p psi(t) - G/2)`` to write, with ``G = |phi|^2 = |psi|^2``.

    They depend on the integer step alone, so a stream that is loaded, or starts at step 1e9, is exact.

    Args:
        samples: Frequencies ``[H, r, 1]`` and importance ratios.
        projection: ``[H, m, D + 2r]`` or ``[m, D + 2r]``, of which the last ``2r`` columns are used.
        step: ``t``, an integer, on the device of the samples if it is a tensor.

    Returns:
        The reading and the writing gain, each ``[H, m]``, shared by all streams.

    Raises:
        ValueError: If positions are not one-dimensional or ``step`` is no integer.
    """
    position = torch.as_tensor(step, device=samples.frequency.device)
    if position.is_floating_point() or position.numel() != 1:
        raise ValueError(f"step must be one integer, got {step!r}")
    check_same("l", -1, frequency=samples.frequency, step=position.view(1, 1))
    _, position_rows = _split(projection, samples)
    root = math.sqrt(max(projection.shape[-2], 1))
    phi, psi = fourier_features(samples, position.view(1, 1))
    read, write = (root * positive_features(x, position_rows).squeeze(-2) for x in (phi, psi))
    return read, write


def flt_step(
    state: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: FourierSamples,
    projection: Tensor,
    step: int | Tensor,
    decay_rate: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """One token of causal FLT attention: write it, then read.

    Args:
        state: Sums so far, ``[B, H, m, V + 1]``, float32 or float64; zeros before the first token.
        query: ``[B, H, D]``.
        key: ``[B, H, D]``.
        value: ``[B, H, V]``.
        samples: Frequencies ``[H, r, 1]`` and importance ratios, the same through the whole stream.
        projection: ``[H, m, D + 2r]`` or ``[m, D + 2r]``, likewise.
        step: Position of this token, an integer.
        decay_rate: Per token, ``[H]``, non-negative; without it the sums grow with the stream.
        eps: Added to the denominator.

    Returns:
        The output ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    check_rank("[B, H, .]", 3, query=query, key=key, value=value)
    content_rows, _ = _split(projection, samples)
    read, write = flt_gains(samples, projection, step)
    query, key = (scale_content(x)[..., None, :] for x in (query, key))
    query_features = positive_features(query, content_rows, rescale=True).squeeze(-2)
    key_features = positive_features(key, content_rows).squeeze(-2)
    return linear_attention_step(
        state,
        query_features * read.to(query_features.dtype),
        key_features * write.to(key_features.dtype),
        value,
        decay_rate=decay_rate,
        eps=eps,
    )


def _features(
    query: Tensor,
    key: Tensor,
    samples: FourierSamples,
    projection: Tensor,
    position: Tensor | None,
    key_position: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Positive features of the extended queries and keys."""
    frequency = samples.frequency
    check_device(query=query, frequency=frequency, projection=projection)
    for name, tensor in (("frequency", frequency), ("projection", projection)):
        if tensor.dim() == 3 and tensor.shape[0] not in (1, query.shape[1]):
            raise ValueError(
                f"{name} has {tensor.shape[0]} heads (axis 0) and query {query.shape[1]} (axis 1): "
                f"{list(tensor.shape)} and {list(query.shape)}"
            )
    if position is None:
        position = positions_of(query.shape[-2], query.device)
    _check_position(position, query, frequency)
    if key_position is not None:
        _check_position(key_position, key, frequency)
    return flt_features(query, key, samples, projection, position, key_position=key_position)


def _check_position(position: Tensor, token: Tensor, frequency: Tensor) -> None:
    """Raise ValueError unless positions are ``[L, l]`` or ``[B, L, l]`` beside ``[B, H, L, D]``."""
    length, batch = token.shape[2], token.shape[0]
    shape = position.shape
    if len(shape) not in (2, 3) or shape[-2] != length or (len(shape) == 3 and shape[0] not in (1, batch)):
        raise ValueError(
            f"position must be [L, l] or [B, L, l] with L = {length} and B = {batch} "
            f"beside {list(token.shape)}, got {list(shape)}"
        )
    check_same("l", -1, frequency=frequency, position=position)
    check_device(frequency=frequency, position=position)


def _split(projection: Tensor, samples: FourierSamples) -> tuple[Tensor, Tensor]:
    """Columns of the projection that meet the content, and those that meet the position."""
    width = projection.shape[-1] - 2 * samples.frequency.shape[1]
    if width < 0:
        count = samples.frequency.shape[1]
        raise ValueError(f"projection must be [..., m, D + 2r], r = {count}, got {list(projection.shape)}")
    return projection[..., :width], projection[..., width:]

"""Toeplitz masks (NPRF), landmarks (Skyformer), other kernels (SchoenbAt) and filters (S4D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernattn._checks import check_counts, without_autocast, working_dtype
from kernattn.features import gaussian_projection, positive_features
from kernattn.keeping import may_be_kept
from kernattn.linear import mask_keys
from kernattn.maclaurin import MaclaurinSamples, draw_maclaurin, maclaurin_kernel, signed_power
from kernattn.modules.layout import Layout
from kernattn.modules.mixers import Mixer
from kernattn.nystrom import causal_skyformer_attention, draw_landmarks, skyformer_attention
from kernattn.reference import kernel_attention
from kernattn.schoenbat import causal_schoenbat_attention, schoenbat_attention
from kernattn.ssm import DiagonalSystem
from kernattn.toeplitz import grid_lags, nprf_attention, toeplitz_matrix, toeplitz_product


class NprfMixer(Mixer):
    """Unit queries and keys under an exact learned table of relative positions.

    The product is by the FFT on long sequences. Where there are tokens without position it is by the L x L
    matrix, whatever the length.

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens: a grid, or a sequence.
        causal: Whether a token sees only itself and the past.
        features: ``m``.
        reach: Longest lag of a sequence's table; farther ones share its ends. A grid's table is whole.

    Raises:
        ValueError: If a number is out of range, or tokens are neither on a grid nor in a sequence.
    """

    projection: Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        features: int = 64,
        reach: int = 64,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        if layout.grid is None and layout.dimension != 1:
            raise ValueError(f"a table of lags needs tokens on a grid or in a sequence, got {layout}")
        check_counts(features=features, reach=reach)
        self.features = features
        shape = (reach + 1,) if layout.grid is None else layout.grid
        self.log_bias = nn.Parameter(torch.zeros(heads, *(2 * size - 1 for size in shape)))
        self.register_buffer("projection", torch.empty(heads, features, width))
        self.redraw()

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection anew."""
        self.projection.copy_(
            gaussian_projection(self.features, self.width, shape=(self.heads,), generator=generator)
        )

    def table(self, length: int) -> Tensor:
        """The table for so many tokens after the prefix, ``[H, 2 L_1 - 1, ...]``."""
        if self.layout.grid is not None:
            return self.log_bias
        lag = grid_lags([length], device=self.log_bias.device)[:, 0]
        reach = (self.log_bias.shape[-1] - 1) // 2
        return self.log_bias[:, lag.clamp(-reach, reach) + reach]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend; see `Mixer`. Positions come from the layout alone."""
        if position is not None:
            raise ValueError("a table of lags takes its positions from the layout, got position")
        prefix = self.layout.prefix
        table = self.table(len(self.layout.positions(query.shape[-2], query.device)))
        if not prefix:
            return nprf_attention(
                query,
                key,
                value,
                log_bias=table,
                projection=self.projection,
                causal=self.causal,
                key_mask=mask,
            )
        log_mask = functional.pad(toeplitz_matrix(table, axes=table.dim() - 1), (prefix, 0, prefix, 0))
        bias = torch.exp(log_mask - log_mask.detach().amax(dim=(-2, -1), keepdim=True))
        return self._by_matrix(query, key, value, bias, None if mask is None else mask[:, None])

    @without_autocast
    def _by_matrix(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attend, with what the weights are multiplied with, ``[H, L, L]``, and a mask ``[B, 1, L]``."""
        dtype = working_dtype(query=query, key=key)
        left, right = (functional.normalize(x.to(dtype), dim=-1) for x in (query, key))
        right, value = mask_keys(positive_features(right, self.projection), value, mask)
        weights = positive_features(left, self.projection) @ right.mT * bias
        return kernel_attention(weights, value, causal=self.causal, eps=1e-20)


class SkyformerMixer(Mixer):
    """The Gaussian kernel in Nystroem's approximation, without row normalisation.

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens; positions are not used.
        causal: Whether a token sees only itself and the past; the landmarks are then learned, else they are
            tokens of the sequence.
        landmarks: ``s``, held at the number of queries and keys.
        ridge: Added to the diagonal of the landmarks' kernel matrix.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        landmarks: int = 64,
        ridge: float = 1e-2,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        if landmarks < 1 or not ridge > 0:
            raise ValueError(f"landmarks must be at least 1 and ridge positive, got {landmarks} and {ridge}")
        self.count, self.ridge = landmarks, ridge
        self.landmarks = nn.Parameter(torch.randn(heads, landmarks, width)) if causal else None
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.redraw()

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the order of the landmarks anew."""
        self.seed.copy_(torch.randint(2**31, (), generator=generator))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend; see `Mixer`."""
        if self.landmarks is not None:
            return causal_skyformer_attention(
                query, key, value, landmarks=self.landmarks, ridge=self.ridge, key_mask=mask
            )[0]
        tokens = query.shape[-2] + key.shape[-2]
        generator = torch.Generator().manual_seed(int(self.seed))
        return skyformer_attention(
            query,
            key,
            value,
            order=draw_landmarks(tokens, generator=generator, device=query.device),
            count=max(1, min(self.count, tokens)),
            ridge=self.ridge,
            query_mask=mask,
            key_mask=mask,
        )


class SchoenbatMixer(Mixer):
    """A kernel of the inner product in random Maclaurin features, between the two parts of ppSBN.

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens; positions are not used.
        causal: Whether a token sees only itself and the past.
        features: ``m``.
        kernel: ``"exp"``, ``"inverse"``, ``"logarithm"``, ``"hyperbolic"`` or ``"root"``.
        radius: Length that queries and keys are brought to.

    Raises:
        ValueError: If a number is out of range or there is no such kernel.
    """

    seed: Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        features: int = 64,
        kernel: str = "exp",
        radius: float = 0.6,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        check_counts(features=features)
        maclaurin_kernel(kernel, radius)
        self.features, self.kernel, self.radius = features, kernel, radius
        self.gain = nn.Parameter(torch.ones(heads, 1, 1))
        self.power = nn.Parameter(torch.ones(heads, 1, 1))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self._drawn: tuple[tuple[int, torch.device], MaclaurinSamples] | None = None
        self.redraw()

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw degrees and signs anew."""
        self.seed.copy_(torch.randint(2**31, (), generator=generator))

    def samples(self) -> MaclaurinSamples:
        """Degrees and signs of the present seed."""
        key = (int(self.seed), self.seed.device)
        if self._drawn is None or self._drawn[0] != key:
            samples = draw_maclaurin(
                self.features,
                self.width,
                kernel=self.kernel,
                shape=(self.heads,),
                generator=torch.Generator().manual_seed(key[0]),
                device=key[1],
            )
            if not may_be_kept():
                return samples
            self._drawn = key, samples
        return self._drawn[1]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend; see `Mixer`."""
        samples, kernel, radius = self.samples(), self.kernel, self.radius
        if self.causal:
            output, _ = causal_schoenbat_attention(
                query, key, value, samples=samples, kernel=kernel, radius=radius, key_mask=mask
            )
        else:
            output = schoenbat_attention(
                query, key, value, samples=samples, kernel=kernel, radius=radius, key_mask=mask
            )
        return signed_power(output, self.gain, self.power).to(value.dtype)


class S4dMixer(Mixer):
    """A bank of learned linear filters over the tokens in order; no queries and keys.

    Args:
        heads: ``H``.
        width: Channels of a head.
        layout: Of the tokens; their order is all that is used.
        causal: Whether a token sees only itself and the past; else a second bank runs backwards.
        modes: ``S``, of every channel.

    Raises:
        ValueError: If a number is out of range.
    """

    value_only = True

    def __init__(
        self, heads: int, width: int, layout: Layout, *, causal: bool = False, modes: int = 16
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        banks = [DiagonalSystem.lin(heads, width, modes) for _ in range(1 if causal else 2)]
        self.log_rate = nn.Parameter(torch.stack([bank.rate.log() for bank in banks]))
        self.frequency = nn.Parameter(torch.stack([bank.frequency for bank in banks]))
        self.log_step_size = nn.Parameter(torch.stack([bank.step_size.log() for bank in banks]))
        self.read_real = nn.Parameter(torch.stack([bank.read_real for bank in banks]))
        self.read_imag = nn.Parameter(torch.stack([bank.read_imag for bank in banks]))
        self.skip = nn.Parameter(torch.ones(heads, 1, width))

    def system(self, bank: int) -> DiagonalSystem:
        """The filters of one direction."""
        return DiagonalSystem(
            self.log_rate[bank].exp(),
            self.frequency[bank],
            self.log_step_size[bank].exp(),
            self.read_real[bank],
            self.read_imag[bank],
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Filter the values; see `Mixer`."""
        if mask is not None:
            value = value.masked_fill(~mask[:, None, :, None], 0.0)
        length = value.shape[-2]
        if not length:
            return value
        lag = torch.arange(length, device=value.device)
        past = self.system(0).kernel(lag)
        future = torch.zeros_like(past[..., 1:]) if self.causal else self.system(1).kernel(lag[1:]).flip(-1)
        output = toeplitz_product(torch.cat([future, past], dim=-1), value.mT).mT
        return (output + self.skip * value).to(value.dtype)

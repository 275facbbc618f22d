"""Linear attention with relative positions, on torch alone.

Tensor letters, here and throughout: ``B`` batch, ``H`` heads, ``L`` length, ``D`` query and key width, ``V``
value width, ``m`` kernel features, ``r`` Fourier samples, ``l`` position dimension, ``E = D + 2r``, ``T``
mixture components, ``S`` spectral components. Attention takes ``[B, H, L, .]``, and its streams ``[B, H,
.]``, one token a call. Positions are ``[L, l]``.

Inputs in half precision are worked on in float32, and outputs take the dtype of ``value``. Features, sums and
states are float32 or float64.
"""

from kernattn.features import gaussian_projection, positive_features
from kernattn.flt import (
    causal_flt_attention,
    extend,
    flt_attention,
    flt_gains,
    flt_step,
    fourier_features,
)
from kernattn.linear import causal_linear_attention, linear_attention, linear_attention_step
from kernattn.reference import kernel_attention, pairwise_lags, softmax_attention
from kernattn.rpe import (
    FourierSamples,
    RelativePosition,
    amplitude_error,
    relative_log_mask,
    warn_of_amplitude,
)
from kernattn.spectra import GaussianMixture, LocalBox, LocalTriangle, PositionTable, ShiftInvariantKernel
from kernattn.spectral import (
    ComplexSpectrum,
    SpectralState,
    advance,
    advance_rotating,
    causal_spectral_attention,
    dense_spectral_attention,
    spectral_state,
    spectral_step,
    write_gain,
)
from kernattn.toeplitz import grid_lags, nprf_attention, toeplitz_matrix, toeplitz_product

__all__ = [
    "ComplexSpectrum",
    "FourierSamples",
    "GaussianMixture",
    "LocalBox",
    "LocalTriangle",
    "PositionTable",
    "RelativePosition",
    "ShiftInvariantKernel",
    "SpectralState",
    "advance",
    "advance_rotating",
    "amplitude_error",
    "causal_flt_attention",
    "causal_linear_attention",
    "causal_spectral_attention",
    "dense_spectral_attention",
    "extend",
    "flt_attention",
    "flt_gains",
    "flt_step",
    "fourier_features",
    "gaussian_projection",
    "grid_lags",
    "kernel_attention",
    "linear_attention",
    "linear_attention_step",
    "nprf_attention",
    "pairwise_lags",
    "positive_features",
    "relative_log_mask",
    "softmax_attention",
    "spectral_state",
    "spectral_step",
    "toeplitz_matrix",
    "toeplitz_product",
    "warn_of_amplitude",
    "write_gain",
]

"""Linear attention with relative positions, on torch alone.

Tensor letters, here and throughout: ``B`` batch, ``H`` heads, ``L`` length, ``D`` query and key width, ``V``
value width, ``m`` kernel features, ``r`` Fourier samples, ``l`` position dimension, ``E = D + 2r``, ``T``
mixture components, ``S`` spectral components. Attention takes ``[B, H, L, .]``, and its streams ``[B, H,
.]``, one token a call. Positions are ``[L, l]``, or ``[B, L, l]`` where rows differ.

Inputs in half precision are worked on in float32, and outputs take the dtype of ``value``. Features, sums and
states are float32 or float64.
"""

from kernattn.features import gaussian_projection, positive_features, trigonometric_features
from kernattn.flt import (
    causal_flt_attention,
    extend,
    flt_attention,
    flt_gains,
    flt_step,
    fourier_features,
)
from kernattn.gaussian import gaussian_attention, gaussian_kernel, stable_inverse
from kernattn.guarded import causal_guarded_attention, guarded_attention, guarded_step
from kernattn.linear import causal_linear_attention, linear_attention, linear_attention_step
from kernattn.maclaurin import (
    MaclaurinSamples,
    centre_and_scale,
    draw_maclaurin,
    maclaurin_features,
    maclaurin_kernel,
    signed_power,
)
from kernattn.nystrom import (
    causal_skyformer_attention,
    draw_landmarks,
    nystrom_features,
    skyformer_attention,
    skyformer_step,
)
from kernattn.performer import causal_performer_attention, performer_attention, performer_step
from kernattn.reference import kernel_attention, pairwise_lags, softmax_attention
from kernattn.rpe import (
    FourierSamples,
    RelativePosition,
    amplitude_error,
    relative_log_mask,
    warn_of_amplitude,
)
from kernattn.schoenbat import causal_schoenbat_attention, schoenbat_attention, schoenbat_step
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
from kernattn.streams import FltStream, SpectralStream
from kernattn.toeplitz import grid_lags, nprf_attention, toeplitz_matrix, toeplitz_product

__all__ = [
    "ComplexSpectrum",
    "FltStream",
    "FourierSamples",
    "GaussianMixture",
    "LocalBox",
    "LocalTriangle",
    "MaclaurinSamples",
    "PositionTable",
    "RelativePosition",
    "ShiftInvariantKernel",
    "SpectralState",
    "SpectralStream",
    "advance",
    "advance_rotating",
    "amplitude_error",
    "causal_flt_attention",
    "causal_guarded_attention",
    "causal_linear_attention",
    "causal_performer_attention",
    "causal_schoenbat_attention",
    "causal_skyformer_attention",
    "causal_spectral_attention",
    "centre_and_scale",
    "dense_spectral_attention",
    "draw_landmarks",
    "draw_maclaurin",
    "extend",
    "flt_attention",
    "flt_gains",
    "flt_step",
    "fourier_features",
    "gaussian_attention",
    "gaussian_kernel",
    "gaussian_projection",
    "grid_lags",
    "guarded_attention",
    "guarded_step",
    "kernel_attention",
    "linear_attention",
    "linear_attention_step",
    "maclaurin_features",
    "maclaurin_kernel",
    "nprf_attention",
    "nystrom_features",
    "pairwise_lags",
    "performer_attention",
    "performer_step",
    "positive_features",
    "relative_log_mask",
    "schoenbat_attention",
    "schoenbat_step",
    "signed_power",
    "skyformer_attention",
    "skyformer_step",
    "softmax_attention",
    "spectral_state",
    "spectral_step",
    "stable_inverse",
    "toeplitz_matrix",
    "toeplitz_product",
    "trigonometric_features",
    "warn_of_amplitude",
    "write_gain",
]

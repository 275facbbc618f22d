"""Spectra of relative position functions: what they evaluate to, and how to sample them."""

from kernattn.spectra.kernels import ShiftInvariantKernel
from kernattn.spectra.local import LocalBox, LocalTriangle
from kernattn.spectra.mixture import GaussianMixture
from kernattn.spectra.table import PositionTable

__all__ = ["GaussianMixture", "LocalBox", "LocalTriangle", "PositionTable", "ShiftInvariantKernel"]

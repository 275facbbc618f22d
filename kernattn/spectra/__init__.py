"""Spectra of relative position functions: what they evaluate to, and how to sample them."""

from kernattn.spectra.mixture import GaussianMixture

__all__ = ["GaussianMixture"]

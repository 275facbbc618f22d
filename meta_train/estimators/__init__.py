"""Estimators of the meta-gradient; those by perturbation see only perturbations and losses.

The three by perturbation (`pes`, `es`, `nres`) differ in one thing alone: which noise a pair of perturbed
rules carries, and what it is credited with, in the next truncation window of an episode. All then give

``g = mean over pairs of sum over segments of score * (L+ - L-) / 2``

where a segment is the part of a window that belongs to one episode (an episode may end inside a window) and
the score is what the segment's noise is credited with, in units of ``1 / sigma``.
"""

from meta_train.estimators.evolution import ES, Evolution, Perturbation, combine, draw, shaped
from meta_train.estimators.nres import NRES
from meta_train.estimators.pes import PES

EVOLUTION: dict[str, Evolution] = {"pes": PES(), "es": ES(), "full-es": ES(), "nres": NRES()}
"""By name; ``full-es`` is ``es`` over windows that are whole episodes."""

ESTIMATORS = (*EVOLUTION, "backprop")

__all__ = ["ESTIMATORS", "EVOLUTION", "Evolution", "Perturbation", "combine", "draw", "shaped"]

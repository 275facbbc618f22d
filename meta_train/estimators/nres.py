"""Noise-reuse evolution strategies: unbiased over whole episodes, its variance free of their length."""

from torch import Tensor

from meta_train.estimators.evolution import Evolution, Perturbation


class NRES(Evolution):
    """One noise for a whole episode, from truncated windows.

    References:
        Li et al., 2023, algorithm 2, https://arxiv.org/abs/2304.12180; with windows of one step it is
        ES-Single of Vicol et al., 2023, https://arxiv.org/abs/2304.11153
    """

    def window(self, held: Perturbation, draw: Tensor, sigma: float) -> Perturbation:
        """The episode's noise goes on; see `Evolution.window`."""
        return held

"""Persistent evolution strategies: unbiased over whole episodes, from truncated windows."""

from torch import Tensor

from meta_train.estimators.evolution import Evolution, Perturbation


class PES(Evolution):
    """Fresh noise in every window; a loss is credited to all noise since its episode began.

    References:
        Vicol, Metz and Sohl-Dickstein, 2021, algorithm 2, https://arxiv.org/abs/2112.13835
    """

    def window(self, held: Perturbation, draw: Tensor, sigma: float) -> Perturbation:
        """Fresh noise on top of what is accumulated; see `Evolution.window`."""
        return Perturbation(draw, held.score + draw / sigma**2)

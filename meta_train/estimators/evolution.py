"""What the estimators by perturbation have in common, and plain evolution strategies."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Perturbation:
    """What every pair carries.

    Attributes:
        noise: Added to the meta-parameters of the pair's positive member, taken from those of its negative
            one, ``[P, M]``.
        score: What a difference of losses is multiplied with: derivative of the log-density of all noise
            that the loss depends on, ``[P, M]``.
    """

    noise: Tensor
    score: Tensor

    @classmethod
    def none(cls, pairs: int, size: int) -> "Perturbation":
        """Before the first window."""
        return cls(torch.zeros(pairs, size), torch.zeros(pairs, size))

    def where(self, chosen: Tensor, other: "Perturbation") -> "Perturbation":
        """This one for the chosen pairs, ``[P]``, the other for the rest."""
        mask = chosen[:, None]
        return Perturbation(
            torch.where(mask, self.noise, other.noise), torch.where(mask, self.score, other.score)
        )


class Evolution(ABC):
    """An estimator by perturbation."""

    @abstractmethod
    def window(self, held: Perturbation, draw: Tensor, sigma: float) -> Perturbation:
        """What a pair in the middle of an episode carries through the next window.

        Args:
            held: What it carried before.
            draw: Fresh noise from ``N(0, sigma^2)``, ``[P, M]``.
            sigma: Its standard deviation.
        """

    def episode(self, draw: Tensor, sigma: float) -> Perturbation:
        """What a pair carries from the beginning of an episode on: fresh noise alone."""
        return Perturbation(draw, draw / sigma**2)


class ES(Evolution):
    """Antithetic evolution strategies: each window's loss is credited to its own noise.

    Over windows that are whole episodes it is unbiased for the smoothed loss; over truncated ones it is
    biased, since what the noise does to later windows goes unseen.

    References:
        Salimans et al., 2017, https://arxiv.org/abs/1703.03864
    """

    def window(self, held: Perturbation, draw: Tensor, sigma: float) -> Perturbation:
        """Fresh noise; see `Evolution.window`."""
        return self.episode(draw, sigma)


def draw(pairs: int, size: int, *, sigma: float, generator: torch.Generator) -> Tensor:
    """Fresh perturbations of the positive members, ``[P, M]``, from ``N(0, sigma^2)``."""
    return sigma * torch.randn(pairs, size, generator=generator)


def shaped(differences: Tensor) -> Tensor:
    """Fitness shaping: keep the sign of each difference and replace its size by one that its rank gives.

    Of ``n`` differences that are not 0, that of rank ``r``, from 1 to ``n``, gets ``(1 + r / n) / 2``; how
    many are 0 plays no part. Of equals the first ranks lower.

    Args:
        differences: ``L+ - L-`` of every segment, of any shape; 0 where there is none.

    Returns:
        Values in [-1, -1/2) and (1/2, 1], 0 where the difference is 0.
    """
    sizes = differences.abs().flatten()
    none = (sizes == 0).sum()  # which come first
    ranks = torch.argsort(torch.argsort(sizes, stable=True)) + 1 - none
    count = (sizes.numel() - none).clamp(min=1)
    weights = (count + ranks) / (2 * count)
    return differences.sign() * weights.reshape(differences.shape).to(differences.dtype)


def combine(scores: Tensor, differences: Tensor) -> tuple[Tensor, Tensor]:
    """The estimate from all pairs.

    Args:
        scores: Of each segment, ``[K, P, M]``.
        differences: ``L+ - L-`` of each segment, ``[K, P]``; one that is not finite counts as none.

    Returns:
        The meta-gradient, ``[M]``, and the estimated variance of each of its elements, ``[M]`` (NaN for a
        single pair).
    """
    finite = torch.nan_to_num(differences, nan=0.0, posinf=0.0, neginf=0.0)
    per_pair = 0.5 * (scores * finite[..., None]).sum(0)
    variance = (
        per_pair.var(0) / len(per_pair) if len(per_pair) > 1 else torch.full_like(per_pair[0], torch.nan)
    )
    return per_pair.mean(0), variance

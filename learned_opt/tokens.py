"""Scale-free features of a parameter's gradient history: what the head sees."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softsign

from learned_opt.layout import Layout
from learned_opt.memory import Readout

MAX_RATIO = 10.0
"""Bound on an average over the root second moment; Adam's own direction stays below 7.3."""


class Tokens(NamedTuple):
    """Features of every parameter, all dimensionless.

    Attributes:
        odd: Flip sign with the gradient history, ``[K + 2, N]``: each average over the root second moment
            (row 0 starts as Adam's direction), the newest gradient likewise, and the first average over the
            root of the row-and-column estimate of the second moment.
        even: Do not, ``[3 K + 2, N]``, each within [-2.5, 1]; then what is told of the progress, if anything.
        log_rms: Log RMS over each tensor of the first ``K`` odd features, ``[K, n]``, within [-5, 2.4].
    """

    odd: Tensor
    even: Tensor
    log_rms: Tensor


def tokenise(
    readout: Readout,
    grad: Tensor,
    param: Tensor,
    layout: Layout,
    *,
    epsilon: float,
    log_rms: Tensor | None = None,
    progress: Tensor | None = None,
) -> Tokens:
    """Turn what the memory holds into features that no rescaling of the loss changes.

    Args:
        readout: First averages ``[K, N]`` and second moment ``[N]``.
        grad: Newest gradient, ``[N]``, in the same units.
        param: Parameters, ``[N]``.
        layout: Which elements belong to which tensor.
        epsilon: Added to every root second moment, in units of its tensor's root mean second moment.
        log_rms: What the head is told of each tensor's averages, ``[K, n]``; by default what they are now.
        progress: What it is told of the steps to come, ``[F, columns]``; by default nothing.

    Returns:
        The features; all zero where a tensor has only had zero gradients. Their derivatives are finite even
        there: no root is taken of a zero.
    """
    tiny = torch.finfo(grad.dtype).tiny
    second = readout.second.clamp_min(tiny)
    mean_second, mean_square_param = layout.mean(torch.stack([second, param * param])).unbind()
    floor = layout.spread(epsilon * mean_second.sqrt()) + tiny
    root = second.sqrt() + floor
    factored_root = layout.factored_mean(second).clamp_min(tiny).sqrt() + floor

    ratios = torch.cat([readout.first, grad[None]]) / root
    factored = readout.first[:1] / factored_root
    odd = torch.cat([ratios, factored]).clamp(-MAX_RATIO, MAX_RATIO)

    heads = readout.first.shape[0]
    averages = odd[:heads]
    own_log_rms = (0.5 * layout.mean(averages * averages).clamp_min(tiny).log()).clamp_min(-5.0)
    agreement = odd[:heads] * torch.cat([odd[heads : heads + 1], averages[:-1]])
    size = param.abs() / layout.spread(mean_square_param.clamp_min(tiny).sqrt())
    per_parameter = torch.cat(
        [
            softsign(averages.abs()),
            softsign(agreement),
            softsign(size)[None],
            _log_ratio(root, factored_root)[None],
        ]
    )
    per_tensor = layout.spread(0.5 * (own_log_rms if log_rms is None else log_rms))
    told = [per_tensor] if progress is None else [per_tensor, layout.spread(progress)]
    even = torch.cat([per_parameter, *(rows.expand(len(rows), grad.shape[0]) for rows in told)])
    return Tokens(odd, even, own_log_rms)


def odd_features(heads: int) -> int:
    """Rows of `Tokens.odd`."""
    return heads + 2


def even_features(heads: int) -> int:
    """Rows of `Tokens.even`."""
    return 3 * heads + 2


def _log_ratio(root: Tensor, factored_root: Tensor) -> Tensor:
    return softsign(torch.log(root / factored_root))

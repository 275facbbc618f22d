"""Scale-free features of a parameter's gradient history: what the head sees."""

from collections.abc import Sequence
from math import log, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softsign

from learned_opt.layout import Layout
from learned_opt.memory import Readout

SHAPE_FEATURES = 2
MAX_RATIO = 10.0
"""Bound on an average over the root second moment; Adam's own direction stays below 7.3."""


class Tokens(NamedTuple):
    """Features of every parameter, all dimensionless but for sizes.

    Attributes:
        odd: Flip sign with the gradient history, ``[K + 2, N]``: each average over the root second moment
            (row 0 starts as Adam's direction), the newest gradient likewise, and the first average over the
            root of the row-and-column estimate of the second moment.
        even: Do not, ``[3 K + 2, N]``, each within [-2.5, 1]; then what is told of the progress and of the
            shapes, if anything.
        log_rms: Log RMS over each tensor of the first ``K`` odd features, ``[K, n]``, within [-5, 2.4].
        sizes: Roots of each tensor's mean second moment and of its parameters' mean square, ``[2, n]``.

    Of features that are not ``factored`` both have a row less.
    """

    odd: Tensor
    even: Tensor
    log_rms: Tensor
    sizes: Tensor


def tokenise(
    readout: Readout,
    grad: Tensor,
    param: Tensor,
    layout: Layout,
    *,
    epsilon: float,
    factored: bool = True,
    log_rms: Tensor | None = None,
    sizes: Tensor | None = None,
    progress: Tensor | None = None,
    shapes: Tensor | None = None,
) -> Tokens:
    """Turn what the memory holds into features that no rescaling of the loss changes.

    Args:
        readout: First averages ``[K, N]`` and second moment ``[N]``.
        grad: Newest gradient, ``[N]``, in the same units.
        param: Parameters, ``[N]``.
        layout: Which elements belong to which tensor.
        epsilon: Added to every root second moment, in units of its tensor's root mean second moment.
        factored: Whether the row-and-column estimate of the second moment is among them.
        log_rms: What the head is told of each tensor's averages, ``[K, n]``; by default what they are now.
        sizes: Which `Tokens.sizes` the features go by, ``[2, n]``; by default those of now.
        progress: What it is told of the steps to come, ``[F, columns]``; by default nothing.
        shapes: What it is told of each tensor's shape, as `shape_features`; by default nothing.

    Returns:
        The features; all zero where a tensor has only had zero gradients. Their derivatives are finite even
        there: no root is taken of a zero.
    """
    tiny = torch.finfo(grad.dtype).tiny
    second = readout.second.clamp_min(tiny)
    found = layout.mean(torch.stack([second, param * param])).clamp_min(tiny).sqrt()
    root_second, root_param = (found if sizes is None else sizes.clamp_min(sqrt(tiny))).unbind()
    floor = layout.spread(epsilon * root_second) + tiny
    root = second.sqrt() + floor
    factored_root = [layout.factored_mean(second).clamp_min(tiny).sqrt() + floor] if factored else []

    ratios = torch.cat([readout.first, grad[None]]) / root
    odd = torch.cat([ratios, *(readout.first[:1] / each for each in factored_root)])
    odd = odd.clamp(-MAX_RATIO, MAX_RATIO)

    heads = readout.first.shape[0]
    averages = odd[:heads]
    own_log_rms = (0.5 * layout.mean(averages * averages).clamp_min(tiny).log()).clamp_min(-5.0)
    agreement = odd[:heads] * torch.cat([odd[heads : heads + 1], averages[:-1]])
    size = param.abs() / layout.spread(root_param)
    per_parameter = torch.cat(
        [
            softsign(averages.abs()),
            softsign(agreement),
            softsign(size)[None],
            *(_log_ratio(root, each)[None] for each in factored_root),
        ]
    )
    per_tensor = layout.spread(0.5 * (own_log_rms if log_rms is None else log_rms))
    told = [per_tensor, *(layout.spread(each) for each in (progress, shapes) if each is not None)]
    even = torch.cat([per_parameter, *(rows.expand(len(rows), grad.shape[0]) for rows in told)])
    return Tokens(odd, even, own_log_rms, found)


def odd_features(heads: int, *, factored: bool = True) -> int:
    """Rows of `Tokens.odd`."""
    return heads + 1 + factored


def even_features(heads: int, *, factored: bool = True) -> int:
    """Rows of `Tokens.even`."""
    return 3 * heads + 1 + factored


def features_of_shape(shape: Sequence[int]) -> tuple[float, ...]:
    """What a head may be told of a shape: 1 for at most one axis, else 0; a tenth of the log of its size."""
    return float(len(shape) < 2), 0.1 * log(max(prod(shape), 1))


def shape_features(layout: Layout, like: Tensor) -> Tensor:
    """`features_of_shape` of each whole tensor, ``[2, n]``, in the dtype and on the device of ``like``."""
    rows = zip(*map(features_of_shape, layout.whole_shapes), strict=True)
    return torch.tensor(list(rows), dtype=like.dtype, device=like.device)


def _log_ratio(root: Tensor, factored_root: Tensor) -> Tensor:
    return softsign(torch.log(root / factored_root))

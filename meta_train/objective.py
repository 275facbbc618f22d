"""What meta-training minimises: which losses of an episode count, and on which scale."""

from math import asinh
from typing import Literal

import torch
from torch import Tensor

from tasks.base import Task

LossScale = Literal["asinh", "log-ratio"]
Objective = Literal["mean", "final"]


def meta_loss(task: Task, losses: Tensor, *, compression: float) -> Tensor:
    """Losses on a scale that all tasks share, elementwise: ``asinh(L / c) / asinh(1 / c)``.

    ``L`` is the normalised loss, bounded even where a member has blown up. The result is 1 where it is 1 and
    0 where it is 0, logarithmic far above the compression ``c`` and linear far below.
    """
    return torch.asinh(task.normalise(losses) / compression) / asinh(1 / compression)


def log_ratio(task: Task, losses: Tensor, first: Tensor, *, compression: float) -> Tensor:
    """``log((L_t + c) / (L_0 + c))`` of normalised losses, elementwise: how far an episode has come.

    Args:
        task: It normalises.
        losses: ``[..., P]``.
        first: Normalised loss at the beginning of each pair's episode, ``[P]``.
        compression: ``c``, which keeps the logarithm finite.
    """
    return torch.log((task.normalise(losses) + compression) / (first + compression))


def weights(
    objective: Objective, step: Tensor, horizon: Tensor, length: int, window: int, *, final_share: float = 0.1
) -> Tensor:
    """How much each of the next steps of each pair counts, ``[length, P]``.

    Over a whole episode either objective has the same total weight.

    Args:
        objective: ``"mean"`` over all steps or ``"final"``: over a last share of the episode.
        step: Steps that each pair has taken, ``[P]``.
        horizon: Steps of its episode, ``[P]``.
        length: Steps to come.
        window: Steps of a whole truncation window.
        final_share: That share; it is one step at least.
    """
    coming = step + torch.arange(length, device=step.device)[:, None]
    if objective == "mean":
        return torch.ones_like(coming) / window
    counted = (horizon * final_share).ceil().clamp_min(1)
    return torch.where(coming >= horizon - counted, horizon / counted, 0.0) / window

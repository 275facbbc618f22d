"""Celo's learned schedule: one learning rate for all tensors, from the loss and the share of steps done."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.benchmark.contestants.celo.weights import CeloWeights

AVERAGES = 10  # running means of the loss, over 10 to all steps
STAGES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # shares of the run that the schedule can tell apart
RATE = 0.1  # learning rate at which the network puts out 0


@dataclass(frozen=True)
class ScheduleState:
    """What the schedule remembers between steps.

    Attributes:
        step: Number of steps done.
        means: Running means of the loss, not yet corrected for their start at 0, ``[10]``.
        lowest: The least that each corrected mean has been, ``[10]``.
        hidden: Hidden state of the LSTM, ``[64]``.
        cell: Its cell state, ``[64]``.
    """

    step: int
    means: Tensor
    lowest: Tensor
    hidden: Tensor
    cell: Tensor


def first_state(weights: CeloWeights) -> ScheduleState:
    """The state before the first step."""
    device = weights.hidden.device
    means = torch.zeros(AVERAGES, device=device)
    return ScheduleState(0, means, torch.full_like(means, 1e12), weights.hidden.clone(), weights.cell.clone())


def loss_decays(steps: int, device: torch.device | None = None) -> Tensor:
    """Decays of the running means, ``[10]``: time constants from 10 to ``steps``, evenly in the logarithm."""
    return torch.exp(-1 / 10 ** torch.linspace(1, math.log10(steps), AVERAGES, device=device))


def advance(
    state: ScheduleState, loss: Tensor, *, steps: int, weights: CeloWeights
) -> tuple[ScheduleState, Tensor]:
    """Take in the loss of a step.

    Args:
        state: The state before the step.
        loss: Loss of the batch at the parameters before the step, scalar.
        steps: Planned number of steps, at least 1.
        weights: Celo's weights, on the loss's device.

    Returns:
        The state after the step, and the learning rate, ``[1]``, in units of a thousandth of a tensor's RMS.
    """
    means, corrected = _averaged(state, loss, loss_decays(steps, loss.device))
    lowest = torch.minimum(state.lowest, corrected)
    inputs = schedule_inputs(state.step, corrected, lowest, steps=steps)
    hidden, cell = _recurrent(inputs, state, weights)
    rate = RATE * torch.exp(hidden @ weights.rate[0] + weights.rate[1])
    return ScheduleState(state.step + 1, means, lowest, hidden, cell), rate


def schedule_inputs(step: int, corrected: Tensor, lowest: Tensor, *, steps: int) -> Tensor:
    """What the network sees.

    Args:
        step: Number of steps done before this one.
        corrected: Means of the loss, this step's included, ``[10]``.
        lowest: The least that they have been, ``[10]``.
        steps: Planned number of steps.

    Returns:
        Nine clocks and nine comparisons of a mean with the next slower one, dimensionless, ``[18]``.
    """
    clocks = torch.tanh(10 * (step / steps - torch.tensor(STAGES, device=lowest.device)))
    if step + 1 <= 2:
        return torch.cat([clocks, torch.zeros(AVERAGES - 1, device=lowest.device)])
    spread = (corrected[1:] - lowest[:-1]).clamp(min=1e-8)
    return torch.cat([clocks, ((corrected[:-1] - lowest[:-1]) / spread - 1).clamp(-1, 1)])


def _averaged(state: ScheduleState, loss: Tensor, decays: Tensor) -> tuple[Tensor, Tensor]:
    """Running means with this loss, plain and corrected; a spike counts at most as twice the highest mean."""
    correction = 1 - decays ** (state.step + 1)
    highest = (state.means / correction).amax() if state.step else loss
    capped = torch.minimum(2 * highest.abs(), loss)
    means = state.means * decays + capped * (1 - decays)
    return means, means / correction


def _recurrent(inputs: Tensor, state: ScheduleState, weights: CeloWeights) -> tuple[Tensor, Tensor]:
    """One step of the LSTM: its hidden and cell state."""
    (linear, bias), (rectified, shift) = weights.linear, weights.rectified
    drive = inputs @ linear + bias + torch.relu(inputs @ rectified + shift)
    gates = torch.cat([drive, state.hidden]) @ weights.gates[0] + weights.gates[1]
    write, candidate, keep, read = gates.chunk(4)
    cell = torch.sigmoid(keep + 1) * state.cell + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(cell), cell

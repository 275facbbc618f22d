"""Celo as a ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tasks.benchmark.contestants.celo.features import (
    FEATURES,
    GRADIENT_LIMIT,
    Moments,
    direction_and_size,
    features,
    first_moments,
    write,
)
from tasks.benchmark.contestants.celo.schedule import ScheduleState, advance, first_state
from tasks.benchmark.contestants.celo.weights import CeloWeights

STEP = 1e-3  # of a tensor's RMS, at a direction and a learning rate of 1
SCHEDULE = "schedule"


class Celo(torch.optim.Optimizer):
    """Celo with the weights that its authors published.

    With learning rate ``l``, the schedule's ``a_t``, and direction ``d`` and log-size ``s`` from a network
    that sees each element's gradient statistics::

        p <- p - l * a_t * 0.001 * d * exp(0.001 * s) * sqrt(mean(p²) + 1e-9)

    It takes two things that others do not: the loss of every batch and the number of steps.

    The published rule holds matrices as (in, out) and images' kernels as (height, width, in, out). Parameters
    of two and four axes named ``…weight`` are seen that way, embeddings excepted; others, and all but square
    ones, come out the same in any layout. Parameters without names count as weights.

    Args:
        params: Tensors, ``(name, tensor)`` pairs or groups; float32.
        lr: Multiple of the published learning rate.
        weights: What `read_weights` gave.
        steps: Planned number of steps; more may be taken.

    Raises:
        ValueError: If an option is out of range or a parameter is not float32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        weights: CeloWeights,
        steps: int,
    ) -> None:
        if not 0 <= lr < float("inf"):
            raise ValueError(f"lr must be finite and at least 0, got {lr}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__(params, {"lr": lr})
        self.weights = weights.to(self.param_groups[0]["params"][0].device)
        self.steps = steps
        self._memory: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles keep the weights."""
        return {**super().__getstate__(), "weights": self.weights, "steps": self.steps, "_memory": None}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters must be float32."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.dtype != torch.float32:
                self.param_groups.pop()
                raise ValueError(f"Celo takes float32 parameters, got {parameter.dtype}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """Take one step with the gradients that the parameters hold.

        Args:
            closure: Computes the gradients and returns the loss.
            loss: The loss, where the gradients are there already.

        Returns:
            The loss.

        Raises:
            ValueError: Unless exactly one of the two is given.
        """
        if (closure is None) == (loss is None):
            raise ValueError("Celo's step takes the loss: step(closure) or step(loss=loss)")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rate = self._advance_schedule(loss)
        for group in self.param_groups:
            names = group.get("param_names", [None] * len(group["params"]))
            for name, parameter in zip(names, group["params"], strict=True):
                if parameter.grad is not None:
                    view = published_view(name, parameter.detach())
                    gradient = published_view(name, parameter.grad).clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
                    self._update(view, gradient, self.state[parameter], rate * group["lr"])
        return loss

    def _advance_schedule(self, loss: Any) -> Tensor:
        """This step's learning rate; the schedule's state is kept with the first parameter's."""
        first = self.param_groups[0]["params"][0]
        kept = self.state[first].get(SCHEDULE)
        state = ScheduleState(**kept) if kept else first_state(self.weights)
        value = torch.as_tensor(loss, dtype=torch.float32, device=first.device).detach().reshape(())
        state, rate = advance(state, value, steps=self.steps, weights=self.weights)
        self.state[first][SCHEDULE] = dict(vars(state))
        return rate

    def _scratch(self, parameter: Tensor) -> Tensor:
        """Memory for the features of a tensor, the same at every step."""
        size = FEATURES * parameter.numel()
        if self._memory is None or self._memory.numel() < size or self._memory.device != parameter.device:
            self._memory = parameter.new_empty(size)
        return self._memory[:size].view(FEATURES, *parameter.shape)

    def _update(self, parameter: Tensor, gradient: Tensor, moments: Moments, rate: Tensor) -> None:
        if "momentum" not in moments:
            moments.update(first_moments(gradient))
        move(parameter, gradient, moments, rate, self.weights, scratch=self._scratch(parameter))


def move(
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    rate: Tensor,
    weights: CeloWeights,
    *,
    scratch: Tensor | None = None,
) -> None:
    """Take in a gradient and move one tensor, all in place.

    Args:
        parameter: The tensor in the publisher's layout, ``[*S]``.
        gradient: Likewise, at most `GRADIENT_LIMIT` in magnitude.
        moments: What `first_moments` gave.
        rate: The schedule's learning rate times the multiple, ``[1]``.
        weights: Celo's weights.
        scratch: Memory for the features, ``[30, *S]``.
    """
    write(moments, gradient)
    raw = features(parameter, gradient, moments, out=scratch)
    direction, log_size, _ = direction_and_size(raw.flatten(1), weights.layers)
    size = (parameter.square().mean() + 1e-9).sqrt()
    change = direction * torch.exp(STEP * log_size) * (rate * STEP * size)
    parameter.sub_(change.view(parameter.shape))


def published_view(name: str | None, tensor: Tensor) -> Tensor:
    """A tensor seen in the publisher's layout, sharing its memory.

    Args:
        name: The parameter's name in its module, if it has one.
        tensor: A parameter or its gradient in PyTorch's layout.

    Returns:
        Matrices of linear layers transposed, kernels as (height, width, in, out), scalars as one element.
    """
    if tensor.dim() == 0:
        return tensor.view(1)
    if name is not None and not _is_weight(name):
        return tensor
    if tensor.dim() == 2:
        return tensor.T
    return tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor


def _is_weight(name: str) -> bool:
    """Whether a name is that of a linear layer's or a convolution's weight."""
    *path, last = name.split(".")
    embedding = bool(path) and any(part in path[-1] for part in ("embed", "token"))
    return "weight" in last and not embedding

"""Two inner problems whose meta-gradient over an episode is known exactly.

- A linear system with a quadratic loss: one meta-parameter, nothing random.
- Gradient descent with momentum on a random quadratic with noisy gradients: the meta-parameters are the log
  learning rate and the logit of the momentum.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

HORIZON = 100
"""Steps of an episode."""

State = tuple[Tensor, ...]


class Problem(Protocol):
    """An inner problem; tensors have leading axes ``[..., G, P]``, meta-parameters ``[..., M]``."""

    name: str
    theta: Tensor
    first_order: tuple[bool, ...]

    def start(self, *leading: int, generator: torch.Generator) -> State:
        """Draw states to begin episodes with."""
        ...

    def batches(self, *leading: int, generator: torch.Generator) -> Tensor:
        """Draw what is random in steps."""
        ...

    def advance(
        self, theta: Tensor, state: State, batch: Tensor, *, first_order: bool
    ) -> tuple[State, Tensor]:
        """One inner step, and the loss after it."""
        ...

    def truth(self) -> Tensor:
        """Derivative of the expected sum of an episode's losses, ``[M]``."""
        ...


class LinearSystem:
    """``s <- 0.9 s + theta``, loss ``s^2 / 2``: smoothing leaves its gradient alone."""

    name = "linear system"
    theta = torch.tensor([0.7], dtype=torch.float64)
    first_order = (False,)

    def start(self, *leading: int, generator: torch.Generator) -> State:
        """All zero; see `Problem.start`."""
        return (torch.zeros(leading),)

    def batches(self, *leading: int, generator: torch.Generator) -> Tensor:
        """Nothing is random; see `Problem.batches`."""
        return torch.zeros(*leading, 0)

    def advance(
        self, theta: Tensor, state: State, batch: Tensor, *, first_order: bool = False
    ) -> tuple[State, Tensor]:
        """See `Problem.advance`."""
        after = 0.9 * state[0] + theta[..., 0]
        return (after,), after.square() / 2

    def truth(self) -> Tensor:
        """See `Problem.truth`."""
        theta = self.theta.clone().requires_grad_()
        state, total = (torch.zeros(()),), torch.zeros(())
        for _ in range(HORIZON):
            state, loss = self.advance(theta, state, torch.zeros(0))
            total = total + loss
        return torch.autograd.grad(total, theta)[0]


class NoisyQuadratic:
    """Gradient descent with momentum on ``x' A x / 2``, with starts and gradient noise from ``N(0, I)``.

    The learning rate is somewhat too high for 100 steps, and too low for what the next 20 show.

    References:
        Wu et al., 2018, section 3, https://arxiv.org/abs/1803.02021
    """

    name = "noisy quadratic"
    theta = torch.tensor([math.log(0.05), 0.0], dtype=torch.float64)
    first_order = (False, True)
    curvature = torch.logspace(-2, 0, 5, dtype=torch.float64)
    noise = 1.0

    def start(self, *leading: int, generator: torch.Generator) -> State:
        """Iterate and momentum; see `Problem.start`."""
        iterate = torch.randn(*leading, len(self.curvature), generator=generator)
        return iterate, torch.zeros_like(iterate)

    def batches(self, *leading: int, generator: torch.Generator) -> Tensor:
        """Noise of the gradients; see `Problem.batches`."""
        return self.noise * torch.randn(*leading, len(self.curvature), generator=generator)

    def advance(
        self, theta: Tensor, state: State, batch: Tensor, *, first_order: bool = False
    ) -> tuple[State, Tensor]:
        """See `Problem.advance`."""
        iterate, momentum = state
        gradient = self.curvature * iterate + batch
        if first_order:
            gradient = gradient.detach()
        momentum = theta[..., 1:].sigmoid() * momentum + gradient
        iterate = iterate - theta[..., :1].exp() * momentum
        return (iterate, momentum), iterate.square() @ self.curvature / 2

    def truth(self) -> Tensor:
        """Through the second moments ``E[xx]``, ``E[xv]`` and ``E[vv]``; see `Problem.truth`."""
        theta = self.theta.clone().requires_grad_()
        rate, decay, curvature = theta[0].exp(), theta[1].sigmoid(), self.curvature
        xx = torch.ones_like(curvature)
        xv = vv = torch.zeros_like(curvature)
        total = torch.zeros(())
        for _ in range(HORIZON):
            mixed = decay * xv + curvature * xx
            vv = decay**2 * vv + 2 * decay * curvature * xv + curvature**2 * xx + self.noise**2
            xv, xx = mixed - rate * vv, xx - 2 * rate * mixed + rate**2 * vv
            total = total + xx @ curvature / 2
        return torch.autograd.grad(total, theta)[0]

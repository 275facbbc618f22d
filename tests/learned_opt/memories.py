"""What the tests of the memories share: all of them by name, and how one is fed gradients."""

import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.memory import MEMORIES, FLTConfig, Memory, MemoryConfig, Meta, MomentsConfig, Readout

CONFIGS: dict[str, MemoryConfig] = {
    **{name: config() for name, config in MEMORIES.items()},
    "flt-spectrum": FLTConfig(reading="spectrum"),
    "moments-mixed": MomentsConfig(mixed_betas=(0.5, 0.97)),
}
LINEAR = ("flt", "flt-spectrum", "s4d", "moments", "moments-mixed")
"""Those whose readouts are linear in the gradients."""


def draw(steps: int, parameters: int = 7, seed: int = 0) -> Tensor:
    """Gradients, ``[steps, parameters]``, float64."""
    return torch.randn(steps, parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(memory: Memory, size: float = 0.3, dtype: torch.dtype = torch.float64) -> Meta:
    """Meta-parameters away from Adam's, frequencies and phases included."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (tensor + size * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, tensor in memory.init_meta(torch.float64).items()
    }


def stream(
    memory: Memory, meta: Meta, grads: Tensor, *, state: Tensor | None = None, before: int = 0
) -> tuple[Tensor, Readout]:
    """The state after these gradients and what it reads.

    Args:
        memory: The memory.
        meta: Its meta-parameters.
        grads: ``[T, N]``.
        state: To go on from.
        before: Gradients that it has already seen.
    """
    layout, live = Layout([(grads.shape[1],)]), torch.ones(1, dtype=grads.dtype)
    if state is None:
        state = torch.zeros(memory.floats_per_parameter, grads.shape[1], dtype=grads.dtype)
    for index, grad in enumerate(grads, start=before + 1):
        step = torch.full((1,), float(index), dtype=grads.dtype)
        state = memory.advance(meta, state, grad, step, live, layout)
    return state, memory.read(meta, state, step, layout)

"""How much a past gradient counts in a memory for which that depends on the gradients themselves."""

import torch
from torch import Tensor

from learned_opt.layout import Layout
from learned_opt.memory.base import Memory, Meta

STREAMS = 16
BURN_IN = 200
SEED = 0


def mean_response(memory: Memory, meta: Meta, lags: Tensor) -> Tensor:
    """Mean derivative of each average by the gradient ``lag`` steps ago.

    Over `STREAMS` streams of independent unit normal gradients, `BURN_IN` steps longer than the longest lag.
    Of a linear memory it is the mask; what a gradient changes in how others are weighted counts too.

    Args:
        memory: The memory.
        meta: Its meta-parameters.
        lags: Whole numbers of steps, ``[L]``.

    Returns:
        ``[K, L]``, in the dtype of ``lags``.
    """
    length = int(lags.max()) + 1 + BURN_IN
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randn(length, STREAMS, generator=generator, dtype=torch.float64)
    layout, live = Layout([(STREAMS,)]), torch.ones(1, dtype=torch.float64)
    meta = {name: tensor.detach().double().cpu() for name, tensor in meta.items()}
    with torch.enable_grad():
        grads = [draw.requires_grad_() for draw in draws.unbind()]
        state = torch.zeros(memory.floats_per_parameter, STREAMS, dtype=torch.float64)
        for index, grad in enumerate(grads, start=1):
            step = torch.full((1,), float(index), dtype=torch.float64)
            state = memory.advance(meta, state, grad, step, live, layout)
        first = memory.read(meta, state, step, layout).first
        each = torch.eye(memory.heads, dtype=torch.float64)
        slopes = torch.autograd.grad(first.sum(1), grads, each, is_grads_batched=True, materialize_grads=True)
    responses = torch.stack(slopes).mean(-1).flip(0).T
    return responses[:, lags.long().cpu()].to(lags)

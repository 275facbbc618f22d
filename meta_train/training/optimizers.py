"""Any optimizer for a model, by name: ours and timm's."""

from typing import Any

import torch
from torch import nn

from learned_opt import LearnedOptimizer
from meta_train.entries import LearnedFactory, load_learned


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float | None,
    weight_decay: float,
    layer_decay: float | None = None,
    steps: int | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer; biases, norms and what the model names get no weight decay, whichever it is.

    Args:
        name: ``flt``, ``flt-orthogonal`` or another learned optimizer by name or folder, or one of timm's
            such as ``adamw``.
        model: What to train.
        lr: Learning rate; the optimizer's own default if None.
        weight_decay: Weight decay.
        layer_decay: Factor of the learning rate from a block to the one before it, none by default.
        steps: How many there will be, for a learned optimizer that goes by it.

    Raises:
        UnknownNameError: If there is no such optimizer.
        CheckpointError: If a learned one cannot be loaded.
        ValueError: If an option is out of range, or the optimizer needs one that is missing.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    for option, value in (("lr", lr), ("weight_decay", weight_decay), ("layer_decay", layer_decay)):
        if value is not None and not 0.0 <= value < float("inf"):
            raise ValueError(f"{option} is {value}; expected a finite number of at least 0")
    theirs = [str(known) for known in list_optimizers()]
    if name not in theirs:
        factory = LearnedFactory(load_learned(name, theirs))
        return factory(_groups(model, weight_decay, layer_decay), lr=lr, steps=steps)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model, name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay
        )
    except (AssertionError, ImportError, TypeError) as error:
        raise ValueError(f"optimizer {name} cannot be built: {error}") from error
    if any(group["lr"] is None for group in optimizer.param_groups):
        raise ValueError(f"optimizer {name} has no learning rate of its own; give one as --lr")
    return optimizer


def schedules_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is told the number of steps, and settles at a constant learning rate."""
    return isinstance(optimizer, LearnedOptimizer) and optimizer.rule.config.progress


def _groups(model: nn.Module, weight_decay: float, layer_decay: float | None) -> Any:
    """The parameter groups that timm makes for its own optimizers."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    spared = getattr(model, "no_weight_decay", lambda: ())()
    if layer_decay is None:
        return param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    return param_groups_layer_decay(model, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay)

"""Any optimizer for a model, by name: ours and timm's."""

from typing import Any

import torch
from torch import nn

from meta_train.entries import DEFAULT_LR, LearnedFactory, load_learned


def build_optimizer(
    name: str, model: nn.Module, *, lr: float | None, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer; biases and norms get no weight decay, whichever it is.

    Args:
        name: ``flt`` or another learned optimizer by name or folder, or one of timm's such as ``adamw``.
        model: What to train.
        lr: Learning rate; the optimizer's own default if None.
        weight_decay: Weight decay.

    Raises:
        UnknownNameError: If there is no such optimizer.
        CheckpointError: If a learned one cannot be loaded.
        ValueError: If an option is out of range, or the optimizer needs one that cannot be given here.
    """
    from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay

    for option, value in (("lr", lr), ("weight_decay", weight_decay)):
        if value is not None and not 0.0 <= value < float("inf"):
            raise ValueError(f"{option} is {value}; expected a finite number of at least 0")
    theirs = [str(known) for known in list_optimizers()]
    if name not in theirs:
        factory = LearnedFactory(load_learned(name, theirs))
        groups: Any = param_groups_weight_decay(model, weight_decay)
        return factory(groups, lr=DEFAULT_LR if lr is None else lr)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, name, lr=lr, weight_decay=weight_decay)
    except (AssertionError, ImportError, TypeError) as error:
        raise ValueError(f"optimizer {name} cannot be built: {error}") from error
    return optimizer

"""The shipped rules in the registries of other libraries."""

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from learned_opt.checkpoint import load_checkpoint, shipped_names
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.rule import UpdateRule


class ShippedOptimizer(LearnedOptimizer):
    """A shipped rule by name, as a class: what a registry of optimizer classes needs.

    Args:
        params: As for `LearnedOptimizer`.
        lr: Learning rate, a float or a tensor of one element.
        name: One of `shipped_names`.
        options: As for `LearnedOptimizer`.

    Raises:
        CheckpointError: If there is no such rule.
        ValueError: As `LearnedOptimizer`.
    """

    def __init__(self, params: ParamsT, lr: float | Tensor = 1e-3, *, name: str, **options: Any) -> None:
        checkpoint = load_checkpoint(name)
        rule = UpdateRule(checkpoint.config)
        super().__init__(params, lr, rule=rule, meta=checkpoint.meta, **options)


def register_with_timm() -> list[str]:
    """Let timm build every shipped rule by name; calling it again changes nothing.

    timm's names know no ``-`` and no ``_``: ``flt-base`` becomes ``fltbase``. The options that timm has for
    every optimizer and these have not, ``eps``, ``betas`` and ``momentum``, are dropped as for timm's own.

    Returns:
        The names, for ``timm.optim.create_optimizer_v2(model, opt=name)``.

    Example:
        >>> register_with_timm()
        ['fltbase']
        >>> optimizer = timm.optim.create_optimizer_v2(model, "fltbase", lr=1e-3, weight_decay=0.05)
    """
    from timm.optim import OptimInfo, list_optimizers
    from timm.optim._optim_factory import default_registry

    known = set(list_optimizers())
    names = {name.replace("-", "").replace("_", "").lower(): name for name in shipped_names()}
    for timm_name, name in names.items():
        if timm_name not in known:
            info = OptimInfo(
                timm_name,
                ShippedOptimizer,
                description=f"{name}, a learned optimizer, with decoupled weight decay",
                has_eps=False,
                defaults={"name": name},
            )
            default_registry.register(info)
    return list(names)

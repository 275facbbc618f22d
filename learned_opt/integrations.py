"""Trained rules in the forms that other libraries ask for."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from learned_opt.checkpoint import load_checkpoint, shipped_names
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.options import check_options
from learned_opt.rule import UpdateRule


class PretrainedOptimizer(LearnedOptimizer):
    """`LearnedOptimizer.from_pretrained` as a class, for whatever wants a class and keyword arguments.

    Args:
        params: As for `LearnedOptimizer`.
        lr: Learning rate, a float or a tensor of one element.
        name_or_folder: A shipped rule, or the folder of a saved one.
        options: As for `LearnedOptimizer`.

    Raises:
        CheckpointError: If there is no such rule, or it cannot be used.
        ValueError: As `LearnedOptimizer`.

    Example:
        >>> options = {"name_or_folder": "runs/mine", "lr": 1e-3}
        >>> trainer = transformers.Trainer(model, optimizer_cls_and_kwargs=(PretrainedOptimizer, options))
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, *, name_or_folder: str | Path, **options: Any
    ) -> None:
        check_options({"lr": lr, **options})
        checkpoint = load_checkpoint(name_or_folder)
        rule = UpdateRule(checkpoint.config)
        super().__init__(params, lr, rule=rule, meta=checkpoint.meta, **options)
        self.facts = checkpoint.facts


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
                PretrainedOptimizer,
                description=f"{name}, a learned optimizer, with decoupled weight decay",
                has_eps=False,
                defaults={"name_or_folder": name},
            )
            default_registry.register(info)
    return list(names)

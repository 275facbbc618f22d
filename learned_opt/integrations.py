"""Trained rules in the forms that other libraries ask for."""

from learned_opt.checkpoint import shipped_names
from learned_opt.pretrained import PretrainedOptimizer

__all__ = ["PretrainedOptimizer", "register_with_timm"]


def register_with_timm() -> list[str]:
    """Let timm build every shipped rule by name; calling it again changes nothing.

    timm's names know no ``-`` and no ``_``: ``flt-base`` becomes ``fltbase``. The options that timm has for
    every optimizer and these have not, ``eps``, ``betas`` and ``momentum``, are dropped as for timm's own.

    Returns:
        The names, for ``timm.optim.create_optimizer_v2(model, opt=name)``.

    Example:
        >>> register_with_timm()
        ['fltbase', 'fltrastrigin', 'fltsmall']
        >>> optimizer = timm.optim.create_optimizer_v2(model, "fltbase", lr=2e-3, weight_decay=0.05)
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

"""Learned optimizers for PyTorch: a rule that was meta-trained, where Adam stood."""

from learned_opt import functional
from learned_opt.architecture import RuleConfig
from learned_opt.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    shipped_names,
)
from learned_opt.memory import FLTConfig, MomentsConfig
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.pretrained import FLT
from learned_opt.rule import UpdateRule

__all__ = [
    "FLT",
    "Checkpoint",
    "CheckpointError",
    "FLTConfig",
    "LearnedOptimizer",
    "MomentsConfig",
    "RuleConfig",
    "UpdateRule",
    "functional",
    "load_checkpoint",
    "save_checkpoint",
    "shipped_names",
]

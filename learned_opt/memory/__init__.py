"""Memories of the gradient history, one protocol."""

from learned_opt.memory.base import Memory, Meta, Readout
from learned_opt.memory.flt import FLTConfig, FLTMemory
from learned_opt.memory.moments import MomentsConfig, MomentsMemory

MemoryConfig = FLTConfig | MomentsConfig
MEMORIES: dict[str, type[FLTConfig] | type[MomentsConfig]] = {"flt": FLTConfig, "moments": MomentsConfig}

__all__ = [
    "MEMORIES",
    "FLTConfig",
    "FLTMemory",
    "Memory",
    "MemoryConfig",
    "Meta",
    "MomentsConfig",
    "MomentsMemory",
    "Readout",
]

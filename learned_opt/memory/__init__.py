"""Memories of the gradient history, one protocol."""

from learned_opt.memory.attention import AttentionMemory
from learned_opt.memory.base import Memory, Meta, Readout, TimeScale
from learned_opt.memory.flt import FLTConfig, FLTMemory
from learned_opt.memory.flt_v1 import FLTV1Config
from learned_opt.memory.lstm import LSTMConfig, LSTMMemory
from learned_opt.memory.moments import MomentsConfig, MomentsMemory
from learned_opt.memory.performer import PerformerConfig
from learned_opt.memory.s4d import S4DConfig, S4DMemory

MemoryConfig = FLTConfig | FLTV1Config | PerformerConfig | S4DConfig | LSTMConfig | MomentsConfig
MEMORIES: dict[str, type[MemoryConfig]] = {
    "flt": FLTConfig,
    "flt-v1": FLTV1Config,
    "performer": PerformerConfig,
    "s4d": S4DConfig,
    "lstm": LSTMConfig,
    "moments": MomentsConfig,
}

__all__ = [
    "MEMORIES",
    "AttentionMemory",
    "FLTConfig",
    "FLTMemory",
    "FLTV1Config",
    "LSTMConfig",
    "LSTMMemory",
    "Memory",
    "MemoryConfig",
    "Meta",
    "MomentsConfig",
    "MomentsMemory",
    "PerformerConfig",
    "Readout",
    "S4DConfig",
    "S4DMemory",
    "TimeScale",
]

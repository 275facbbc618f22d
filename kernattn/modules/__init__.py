"""Attention layers with timm's signature by every method, a switch for whole models, two small models."""

from kernattn.modules.attention import METHODS, KernelAttention, make_mixer, redraw
from kernattn.modules.blocks import Block, CausalLanguageModel, PointSetModel
from kernattn.modules.layout import Layout
from kernattn.modules.mixers import Mixer
from kernattn.modules.position import PositionFunction
from kernattn.modules.switch import switch_attention

__all__ = [
    "METHODS",
    "Block",
    "CausalLanguageModel",
    "KernelAttention",
    "Layout",
    "Mixer",
    "PointSetModel",
    "PositionFunction",
    "make_mixer",
    "redraw",
    "switch_attention",
]

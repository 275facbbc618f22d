"""What a fused step needs of a rule: sizes at compile time, numbers at run time."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from learned_opt.head import SCALES
from learned_opt.memory import FLTMemory, Meta, MomentsMemory
from learned_opt.orthogonal import POLYNOMIALS, power_of_second
from learned_opt.progress import FEATURES
from learned_opt.rule import UpdateRule
from learned_opt.tokens import SHAPE_FEATURES


class Sizes(NamedTuple):
    """What the source is specialised to.

    Attributes:
        heads: Averages that the head sees.
        averages: Exponential averages that the memory keeps, those included.
        waves: Damped rotations that it keeps.
        mixing: How many of the first heads have shares of further rows added to their averages.
        mixed: Those rows, the last before the second moment.
        hidden: Width of the head.
        directions: Learned odd functions.
        progress: What the head is told of the progress.
        shapes: What it is told of a tensor's shape.
        factored: Whether it is told of the row-and-column estimate, 0 or 1.
        relu: Whether its hidden layer's activation is relu, 0 or 1.
    """

    heads: int
    averages: int
    waves: int
    mixing: int
    mixed: int
    hidden: int
    directions: int
    progress: int
    shapes: int
    factored: int
    relu: int


@dataclass(frozen=True, eq=False)
class Recipe:
    """The numbers of a rule.

    Attributes:
        rates: Of the averages, of the second moment, of the waves; frequencies of the waves. Float64.
        weights: Shares of the mixed rows in each mixing head, then the head's weights. Float32.
        epsilon: Of the rule.
        scale: Place of the rule's scale in `SCALES`.
        tempering: The power of the second moment that directions are weighed with before they are made
            orthogonal; 0 for none.
        spectral: Whether sizes of orthogonal directions fall with the width.
        polynomials: Of the iterations that make them so, ``[iterations, 3]``. Float32.
    """

    rates: Tensor
    weights: Tensor
    epsilon: float
    scale: int
    tempering: float
    spectral: bool
    polynomials: Tensor


def sizes_of(rule: UpdateRule) -> Sizes | str:
    """The sizes of a rule; or, as half a sentence, why no fused step can run it."""
    memory, config = rule.memory, rule.config
    mixing = memory.heads
    if type(memory) is FLTMemory:
        averages, waves, mixed = memory.heads, memory.waves, 2 * memory.waves
        if memory.config.reading == "spectrum":
            mixing, mixed = 1, averages + mixed
    elif type(memory) is MomentsMemory:
        averages, waves, mixed = memory.averages, 0, memory.averages - memory.heads
    else:
        return f"{type(config.memory).__name__}; expected the memory FLTConfig or MomentsConfig"
    progress = FEATURES if config.progress else 0
    return Sizes(
        memory.heads,
        averages,
        waves,
        mixing,
        mixed,
        config.hidden,
        config.directions,
        progress,
        SHAPE_FEATURES if config.shapes else 0,
        int(config.factored),
        int(config.activation == "relu"),
    )


def recipe_of(rule: UpdateRule, meta: Meta) -> Recipe:
    """The numbers of a rule that has `sizes_of`."""
    memory = rule.memory
    rates, mixture = _flt(memory, meta) if type(memory) is FLTMemory else _moments(memory, meta)
    head = ("input_weight", "input_bias", "direction_weight", "output_weight", "output_bias")
    weights = [mixture, *(meta[f"head.{name}"] for name in head)]
    none = torch.zeros(memory.heads, device="cpu")
    weights.append(meta.get("head.rms_exponent", none))
    if rule.config.shapes:
        weights.append(meta.get("head.vector_exponent", none))
        gain = meta.get("head.shape_gain", none[:0]).detach().float().cpu()
        weights.append(pad(gain, (0, SHAPE_FEATURES - len(gain))))
    weights.append(meta.get("head.schedule", none[:0]))
    shaping = rule.shaping(meta)
    return Recipe(
        torch.cat(rates).double().contiguous(),
        torch.cat([weight.detach().reshape(-1).float().cpu() for weight in weights]),
        rule.config.epsilon,
        SCALES.index(rule.config.scale),
        0.0 if shaping.exponent is None else power_of_second(shaping.exponent).item(),
        shaping.spectral,
        torch.tensor(POLYNOMIALS[shaping.iterations], dtype=torch.float32, device="cpu"),
    )


def _flt(memory: FLTMemory, meta: Meta) -> tuple[list[Tensor], Tensor]:
    names = ("log_decay_rate", "log_second_decay_rate", "wave_log_decay_rate")
    rates = [meta[f"memory.{name}"].detach().cpu().double().exp() for name in names]
    return [*rates, meta["memory.wave_frequency"].detach().cpu().double()], memory.mixture(meta)


def _moments(memory: object, meta: Meta) -> tuple[list[Tensor], Tensor]:
    assert isinstance(memory, MomentsMemory)
    rates = memory.rates(torch.zeros((), dtype=torch.float64, device="cpu"))
    return [rates], meta.get("memory.mixture", rates[:0])

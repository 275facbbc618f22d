"""The tiny network from features to a direction, and the size it is given."""

from collections.abc import Callable
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softsign

from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.progress import FEATURES
from learned_opt.tokens import SHAPE_FEATURES, Tokens, even_features, odd_features, shape_features

Scale = Literal["none", "rms", "adam"]
SCALES: tuple[Scale, ...] = ("none", "rms", "adam")
Activation = Literal["softsign", "relu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"softsign": softsign, "relu": relu}
"""Of the hidden layer."""
MAX_LOG_GAIN = 2.0
CHUNK = 4096
"""Parameters that pass the network at a time, uncompiled: what it writes on the way then stays in cache."""


class Head:
    """A sign-equivariant network: even features weight odd ones.

    The direction is Adam's plus a weighted sum of the odd features and of ``directions`` learned odd
    functions of them; a network with one hidden layer reads the even features and gives the weights. It flips
    when the gradient history flips, and is Adam's direction while the last layer is zero.

    Args:
        heads: Averages ``K`` that the memory gives.
        hidden: Width of the hidden layer.
        directions: Learned odd functions.
        scale: ``"adam"`` rescales each tensor's direction to the RMS of Adam's, times a learned power of the
            RMS of every average and of its shape; ``"rms"`` to RMS 1; ``"none"`` leaves it.
        progress: Whether the even features tell of the progress, of which a further gain is learned: the
            exponential of a weighted sum.
        factored: Whether the features are.
        activation: Of the hidden layer.
        shapes: Whether the even features tell of the shapes. With the scale ``"adam"`` the powers of vectors
            and scalars are then others than those of matrices.
        sized: Whether the learned powers with the scale ``"adam"`` are also of a tensor's number of elements.
    """

    def __init__(
        self,
        *,
        heads: int,
        hidden: int,
        directions: int,
        scale: Scale,
        progress: bool = False,
        factored: bool = True,
        activation: Activation = "softsign",
        shapes: bool = False,
        sized: bool = True,
    ) -> None:
        self.heads, self.hidden, self.directions, self.scale = heads, hidden, directions, scale
        self.progress, self.factored, self.activation = progress, factored, activation
        self.shapes, self.sized = shapes, sized

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator) -> Meta:
        """Random first layers, zero last layer and zero exponents: Adam's direction."""
        even = even_features(self.heads, factored=self.factored)
        even += FEATURES * self.progress + SHAPE_FEATURES * self.shapes
        odd = odd_features(self.heads, factored=self.factored)

        def normal(rows: int, columns: int) -> Tensor:
            draw = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return (draw / sqrt(columns)).to(dtype)

        meta = {
            "head.input_weight": normal(self.hidden, even),
            "head.input_bias": torch.zeros(self.hidden, dtype=dtype),
            "head.direction_weight": normal(self.directions, odd),
            "head.output_weight": torch.zeros(odd + self.directions, self.hidden, dtype=dtype),
            "head.output_bias": torch.zeros(odd + self.directions, dtype=dtype),
        }
        if self.scale == "adam":
            meta["head.rms_exponent"] = torch.zeros(self.heads, dtype=dtype)
            if self.shapes:
                meta["head.vector_exponent"] = torch.zeros(self.heads, dtype=dtype)
                meta["head.shape_gain"] = torch.zeros(SHAPE_FEATURES if self.sized else 1, dtype=dtype)
        if self.progress:
            meta["head.schedule"] = torch.zeros(FEATURES, dtype=dtype)
        return meta

    def schedule(self, meta: Meta, progress: Tensor) -> Tensor:
        """The gain that the progress asks for, ``[F, columns]`` to ``[columns]``, bounded."""
        log_gain = (meta["head.schedule"][:, None] * progress).sum(0)
        return log_gain.clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).exp()

    def gain_of_shape(self, meta: Meta, shapes: Tensor) -> Tensor:
        """Log of the gain that shapes alone ask for, ``[n]``; ``shapes`` as of `shape_features`."""
        gain = meta["head.shape_gain"]
        return (gain[:, None] * shapes[: len(gain)]).sum(0)

    def direct(
        self, meta: Meta, tokens: Tokens, layout: Layout, *, log_gain: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Direct every parameter.

        Args:
            meta: The head's meta-parameters.
            tokens: Features.
            layout: Which elements belong to which tensor.
            log_gain: Log of each tensor's gain, ``[n]``; by default of that which its direction asks for.

        Returns:
            The directions, ``[N]``, in Adam's units; and the gain that each tensor's direction asks for,
            ``[n]``, 0 where it does not move.
        """
        size = tokens.odd.shape[-1] if torch.compiler.is_compiling() else CHUNK
        pieces = zip(torch.split(tokens.odd, size, -1), torch.split(tokens.even, size, -1), strict=True)
        direction = torch.cat([self._network(meta, odd, even) for odd, even in pieces])
        gain = self._gain(meta, tokens, direction, layout)
        if self.scale == "none":
            return direction, gain
        return direction * layout.spread(gain if log_gain is None else log_gain.exp()), gain

    def weigh(self, meta: Meta, odd: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
        """Odd features and the weights that the even ones give them.

        Args:
            meta: The head's meta-parameters.
            odd: As of `Tokens`, ``[O, N]``.
            even: Likewise, ``[E, N]``.

        Returns:
            The weights and the features, learned ones last, ``[O + D, N]`` each. Adam's direction, the first
            feature, counts once beside its weight.
        """
        activation = ACTIVATIONS[self.activation]
        hidden = activation(meta["head.input_weight"] @ even + meta["head.input_bias"][:, None])
        weight = meta["head.output_weight"] @ hidden + meta["head.output_bias"][:, None]
        learned = 2.0 * softsign(meta["head.direction_weight"] @ odd)
        return weight, torch.cat([odd, learned])

    def _network(self, meta: Meta, odd: Tensor, even: Tensor) -> Tensor:
        weight, features = self.weigh(meta, odd, even)
        return odd[0] + (weight * features).sum(0)

    def _gain(self, meta: Meta, tokens: Tokens, direction: Tensor, layout: Layout) -> Tensor:
        tiny = torch.finfo(direction.dtype).tiny
        adam = tokens.odd[0]
        square, adam_square = layout.mean(torch.stack([direction * direction, adam * adam])).unbind()
        moving = (adam_square > 0).to(direction.dtype)
        if self.scale == "none":
            return moving
        inverse = moving / square.clamp_min(tiny).sqrt()
        if self.scale == "rms":
            return inverse
        log_gain = (meta["head.rms_exponent"][:, None] * tokens.log_rms).sum(0)
        if self.shapes:
            told = shape_features(layout, direction)
            log_gain = log_gain + (meta["head.vector_exponent"][:, None] * tokens.log_rms).sum(0) * told[0]
            log_gain = log_gain + self.gain_of_shape(meta, told)
        return (
            inverse * adam_square.clamp_min(tiny).sqrt() * log_gain.clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).exp()
        )

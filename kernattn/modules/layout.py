"""Where the tokens of a layer are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernattn.fused import positions_of


@dataclass(frozen=True)
class Layout:
    """Positions of the tokens of a sequence.

    Attributes:
        dimension: ``l``, of positions.
        grid: ``(L_1, ..., L_l)`` if tokens are on a grid in raster order, as patches of an image are. None
            for a sequence of any length (``l = 1``), or where positions come with the input.
        prefix: Tokens before the others that have no position, such as class tokens: f is 0 between them and
            any token.
        extent: Largest distance expected along an axis, in units of position; sets how position functions
            start.

    Raises:
        ValueError: If a number is out of range or the grid does not have ``dimension`` axes.
    """

    dimension: int = 1
    grid: tuple[int, ...] | None = None
    prefix: int = 0
    extent: float = 64.0

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.prefix < 0 or not self.extent > 0:
            raise ValueError(
                "dimension must be at least 1, prefix not negative and extent positive, "
                f"got {self.dimension}, {self.prefix} and {self.extent}"
            )
        if self.grid is not None and (len(self.grid) != self.dimension or min(self.grid) < 1):
            raise ValueError(f"grid must be {self.dimension} lengths of at least 1, got {self.grid}")

    @classmethod
    def patches(cls, height: int, width: int, *, prefix: int = 0) -> Layout:
        """Patches of an image, one unit apart."""
        return cls(2, (height, width), prefix, float(max(height, width)))

    def positions(self, length: int, device: torch.device) -> Tensor:
        """Positions of the tokens after the prefix.

        Args:
            length: Tokens, the prefix included.
            device: Of the result.

        Returns:
            ``[length - prefix, l]``, integers.

        Raises:
            ValueError: If the length is not that of the grid or shorter than the prefix, or positions have to
                come with the input.
        """
        count = length - self.prefix
        if count < 0:
            raise ValueError(f"expected at least {self.prefix} tokens, those without position, got {length}")
        if self.grid is None:
            if self.dimension != 1:
                raise ValueError(f"position [B, L, {self.dimension}] must come with the input")
            return positions_of(count, device)
        axes = [torch.arange(size, dtype=torch.int16, device=device) for size in self.grid]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        if len(positions) != count:
            raise ValueError(
                f"expected {self.prefix} tokens without position and {len(positions)} with, got {length}"
            )
        return positions

"""Transformer blocks and two small models of them: a causal language model, and one over sets of points."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kernattn.modules.attention import KernelAttention
from kernattn.modules.layout import Layout


class Block(nn.Module):
    """Attention and a perceptron of two layers, each after a normalisation and beside a skip.

    Args:
        dim: Width of the tokens.
        num_heads: ``H``.
        **options: Of `KernelAttention`.
    """

    def __init__(self, dim: int, num_heads: int, **options: Any) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = KernelAttention(dim, num_heads, qkv_bias=True, **options)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """Map tokens ``[B, L, dim]``, with a mask of the keys ``[B, L]``, to the same shape."""
        x = x + self.attention(self.attention_norm(x), mask, position=position)
        output: Tensor = x + self.perceptron(x)
        return output


class CausalLanguageModel(nn.Module):
    """Predicts the next token of a sequence; its positions are those of its attention alone.

    Args:
        vocabulary: Number of tokens there are.
        dim: Width of the model.
        depth: Number of blocks.
        num_heads: ``H``.
        extent: Tokens that matter to one another, roughly; sets how position functions start.
        method: Of attention.
        **options: Of the method.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        extent: float = 64.0,
        method: str = "flt",
        **options: Any,
    ) -> None:
        super().__init__()
        layout = Layout(extent=extent)
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, method=method, layout=layout, causal=True, **options) for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the token after each.

        Args:
            tokens: ``[B, L]``, integers below ``vocabulary``.
            mask: False where a token is padding, ``[B, L]``.

        Returns:
            ``[B, L, vocabulary]``.
        """
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.head(x)
        return logits


class PointSetModel(nn.Module):
    """Maps a set of points with features to a vector for each; positions enter by attention alone.

    Args:
        inputs: Width of what comes with a point.
        outputs: Width of what is returned for it.
        dim: Width of the model.
        depth: Number of blocks.
        num_heads: ``H``.
        dimension: ``l``, of the points.
        extent: Largest distance that matters, roughly, in units of position.
        method: Of attention; ``"nprf"`` has no grid here and is refused.
        **options: Of the method; ``isotropic=True`` for position functions of the distance alone.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dim: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        dimension: int = 3,
        extent: float = 1.0,
        method: str = "flt",
        **options: Any,
    ) -> None:
        super().__init__()
        layout = Layout(dimension, extent=extent)
        self.embedding = nn.Linear(inputs, dim)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, method=method, layout=layout, **options) for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, outputs))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map every point.

        Args:
            x: What comes with each point, ``[B, L, inputs]``.
            position: ``[B, L, l]``.
            mask: False where a point is padding, ``[B, L]``.

        Returns:
            ``[B, L, outputs]``.
        """
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x, mask, position)
        output: Tensor = self.head(x)
        return output

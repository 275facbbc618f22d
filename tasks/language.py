"""Language models: transformers that predict the next character or byte of real text.

The texts are those of ``tasks.texts``. A loss is in nats per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tasks.base import ParametricFamily, TaskFamily
from tasks.configurations import family_of, tasks_of
from tasks.draws import log_integer, pick
from tasks.module import ClassificationTask
from tasks.texts import TextData

EMBEDDING_DEVIATION = 0.02


class CausalBlock(nn.Module):
    """Attention to the tokens so far, then a perceptron of one hidden layer; each after a layer norm.

    Attention is written out, as PyTorch's fused kernels on the CPU have no rule for ``torch.func.vmap``.

    Args:
        width: Width of a token, ``D``.
        heads: Attention heads, ``H``; must divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, L, D]`` to tokens of the same shape."""
        x = x + self._attend(self.attention_norm(x))
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        length, width = x.shape[-2:]
        split = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(-3, -2) for part in split.unbind(-3))
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        y: Tensor = self.projection((weights @ value).transpose(-3, -2).flatten(-2))
        return y


class CausalTransformer(nn.Module):
    """Token and position embeddings, blocks, a layer norm, and a linear layer.

    Args:
        vocabulary: Number of tokens.
        length: Most tokens in a window.
        width: Width of a token; must be a multiple of ``heads``.
        depth: Number of blocks.
        heads: Attention heads.

    Raises:
        ValueError: If a size is below 1 or ``heads`` does not divide ``width``.
    """

    def __init__(self, *, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        sizes = {
            "vocabulary": vocabulary,
            "length": length,
            "width": width,
            "depth": depth,
            "heads": heads,
        }
        for size, value in sizes.items():
            if value < 1:
                raise ValueError(f"{size} must be at least 1, got {value}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} heads and width {width}")
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.Sequential(*(CausalBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        for weight in (self.tokens.weight, self.positions, self.head.weight):
            nn.init.normal_(weight, std=EMBEDDING_DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[B, L, vocabulary]`` for what follows each of the tokens ``[B, L]``."""
        x = self.tokens(tokens) + self.positions[: tokens.shape[-1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


@dataclass(frozen=True)
class LanguageConfig:
    """A transformer and the text that it learns.

    Attributes:
        corpus: One of ``tasks.texts.corpus_names()``.
        unit: ``"character"`` or ``"byte"``.
        length: Tokens in a window.
        width: Width of a token.
        depth: Number of blocks.
        heads: Attention heads.
        batch_size: Windows in a batch.
    """

    corpus: str
    unit: str
    length: int
    width: int
    depth: int
    heads: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.corpus} by {self.unit}: transformer, width {self.width}, depth {self.depth}, "
            f"length {self.length}, batch {self.batch_size}"
        )

    def build(self, _seed: int = 0, *, name: str = "language") -> ClassificationTask:
        """Return the task: one instance, whatever the seed."""
        data = TextData(self.corpus, self.length, unit=self.unit)
        return ClassificationTask(
            partial(
                CausalTransformer,
                vocabulary=data.classes,
                length=self.length,
                width=self.width,
                depth=self.depth,
                heads=self.heads,
            ),
            data,
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=2000,
            learning_rates=(3e-4, 3e-2),
        )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration; never of a judge's text, for it is always the same other one."""
    heads = pick((1, 2, 4), generator)
    config = LanguageConfig(
        corpus="topics",
        unit=pick(("byte", "character"), generator),
        length=log_integer(8, 64, generator),
        width=heads * log_integer(4, 16, generator),
        depth=int(torch.randint(1, 4, (), generator=generator)),
        heads=heads,
        batch_size=2 ** int(torch.randint(2, 6, (), generator=generator)),
    )
    return family_of("language", config)


_JUDGES = {"descriptions-transformer": LanguageConfig("descriptions", "character", 32, 32, 1, 2, 8)}
_NAMED = _JUDGES | {
    "text-transformer": LanguageConfig("topics", "character", 64, 64, 2, 4, 16),
    "byte-transformer": LanguageConfig("topics", "byte", 64, 64, 2, 4, 16),
    "brown-transformer": LanguageConfig("brown", "character", 64, 64, 2, 4, 16),
    "moby-dick-transformer": LanguageConfig("moby-dick", "character", 64, 64, 2, 4, 16),
}

TASKS = tasks_of(_NAMED)
JUDGES = frozenset(_JUDGES)

PARAMETRIC = (
    ParametricFamily(
        "language",
        "causal transformers over the characters or bytes of Python's language reference",
        "1 to 3 blocks, width 4 to 64, windows of 8 to 64 tokens, batch 4 to 32",
        _draw_family,
    ),
)

"""Recurrent networks that read an image row by row, or a text, and predict its class or its next token.

Cells are written with ``nn.Linear``: PyTorch's own recurrent layers have no rule for ``torch.func.vmap``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from tasks.base import ParametricFamily, TaskFamily
from tasks.configurations import family_of, never_judged, tasks_of
from tasks.datasets import SIDES, DataSource, load_dataset
from tasks.draws import log_integer, pick
from tasks.module import ClassificationTask
from tasks.registry import choose
from tasks.texts import TextData

TEXT = "topics"


class Cell(nn.Module, ABC):
    """One step of a recurrent network, from ``gates`` affine functions of the input and as many of the state.

    Args:
        inputs: Width of an input.
        width: Width of the state, ``D``.
    """

    gates = 1
    states = 1

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.from_input = nn.Linear(inputs, self.gates * width)
        self.from_state = nn.Linear(width, self.gates * width, bias=False)

    @abstractmethod
    def forward(self, projected: Tensor, state: Tensor) -> Tensor:
        """Return the next state.

        Args:
            projected: Of ``from_input``, ``[B, gates D]``.
            state: ``[B, states D]``, of which the first ``D`` are what the cell shows.
        """


class TanhCell(Cell):
    """Elman's cell: ``h' = tanh(W x + U h + b)``."""

    def forward(self, projected: Tensor, state: Tensor) -> Tensor:
        """Return the next state, ``[B, D]``."""
        return torch.tanh(projected + self.from_state(state))


class GRUCell(Cell):
    """Gated recurrent unit, with the reset gate applied after the recurrent product, as in PyTorch.

    References:
        Cho et al., 2014, https://arxiv.org/abs/1406.1078
    """

    gates = 3

    def forward(self, projected: Tensor, state: Tensor) -> Tensor:
        """Return the next state, ``[B, D]``."""
        reset, update, new = projected.chunk(3, -1)
        reset_state, update_state, new_state = self.from_state(state).chunk(3, -1)
        update = torch.sigmoid(update + update_state)
        new = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
        return new + update * (state - new)


class LSTMCell(Cell):
    """Long short-term memory; its state is ``[h, c]``.

    References:
        Gers, Schmidhuber and Cummins, 2000, https://doi.org/10.1162/089976600300015015
    """

    gates = 4
    states = 2

    def forward(self, projected: Tensor, state: Tensor) -> Tensor:
        """Return the next state, ``[B, 2 D]``."""
        hidden, carry = state.chunk(2, -1)
        gates = projected + self.from_state(hidden)
        enter, forget, candidate, out = gates.chunk(4, -1)
        carry = torch.sigmoid(forget) * carry + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.cat([torch.sigmoid(out) * torch.tanh(carry), carry], -1)


CELLS: dict[str, type[Cell]] = {"gru": GRUCell, "lstm": LSTMCell, "tanh": TanhCell}


class RecurrentNet(nn.Module):
    """A cell over a sequence, and a linear layer.

    Args:
        cell: A key of ``CELLS``.
        inputs: Width of an input.
        width: Width of the state.
        outputs: Number of outputs.
        every_step: Whether there is an output after each step, or one after the last.
    """

    def __init__(self, cell: str, *, inputs: int, width: int, outputs: int, every_step: bool) -> None:
        super().__init__()
        self.cell = choose("cell", cell, CELLS)(inputs, width)
        self.head = nn.Linear(width, outputs)
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences ``[B, L, inputs]`` to ``[B, L, outputs]``, or to ``[B, outputs]``."""
        cell = self.cell
        state = x.new_zeros(x.shape[0], cell.states * cell.width)
        shown = []
        for projected in cell.from_input(x).unbind(1):
            state = cell(projected, state)
            shown.append(state[:, : cell.width])
        outputs: Tensor = self.head(torch.stack(shown, 1) if self.every_step else shown[-1])
        return outputs


def row_reader(cell: str, side: int, width: int) -> nn.Sequential:
    """Build a network that reads square images from the top row to the bottom and then says their class.

    Args:
        cell: A key of ``CELLS``.
        side: Of an image, in pixels.
        width: Width of the state.
    """
    net = RecurrentNet(cell, inputs=side, width=width, outputs=10, every_step=False)
    return nn.Sequential(nn.Flatten(1, 2), net)


def token_reader(cell: str, vocabulary: int, width: int) -> nn.Sequential:
    """Build a network that reads tokens ``[B, L]`` and predicts after each the next one.

    Args:
        cell: A key of ``CELLS``.
        vocabulary: Number of tokens.
        width: Width of the state and of a token's embedding.
    """
    net = RecurrentNet(cell, inputs=width, width=width, outputs=vocabulary, every_step=True)
    return nn.Sequential(nn.Embedding(vocabulary, width), net)


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent network and what it reads.

    Attributes:
        cell: A key of ``CELLS``.
        source: A dataset of images, or ``topics``: Python's language reference.
        length: Rows of an image, or characters of a window.
        width: Width of the state.
        batch_size: Sequences in a batch.
    """

    cell: str
    source: str
    length: int
    width: int
    batch_size: int

    def __str__(self) -> str:
        unit = "characters" if self.source == TEXT else "rows"
        return (
            f"{self.source}: {self.cell} of width {self.width} over {self.length} {unit}, "
            f"batch {self.batch_size}"
        )

    def build(self, _seed: int = 0, *, name: str = "recurrent") -> ClassificationTask:
        """Return the task: one instance, whatever the seed."""
        data: DataSource
        factory: Callable[[], nn.Module]
        if self.source == TEXT:
            data = text = TextData(TEXT, self.length)
            factory = partial(token_reader, self.cell, text.classes, self.width)
        else:
            data = load_dataset(f"{self.source}-{self.length}")
            factory = partial(row_reader, self.cell, self.length, self.width)
        return ClassificationTask(
            factory,
            data,
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=1000,
            learning_rates=(3e-4, 3e-2),
            metric="loss" if self.source == TEXT else "accuracy",
        )


def _draw(generator: torch.Generator) -> RecurrentConfig:
    source = pick(("digits", "fashion-mnist", TEXT), generator)
    return RecurrentConfig(
        cell=pick(tuple(CELLS), generator),
        source=source,
        length=log_integer(*SIDES, generator),
        width=log_integer(8, 64, generator),
        batch_size=2 ** int(torch.randint(4, 8, (), generator=generator)),
    )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration, never on the images of a judge."""
    config = never_judged(_draw, attrgetter("source", "length"), _JUDGES.values(), generator)
    return family_of("recurrent", config)


_JUDGES = {"fashion-14-gru": RecurrentConfig("gru", "fashion-mnist", 14, 32, 64)}
_NAMED = _JUDGES | {
    "digits-rnn": RecurrentConfig("tanh", "digits", 8, 32, 64),
    "digits-gru": RecurrentConfig("gru", "digits", 8, 32, 64),
    "fashion-lstm": RecurrentConfig("lstm", "fashion-mnist", 28, 64, 64),
    "text-gru": RecurrentConfig("gru", TEXT, 24, 64, 32),
}

TASKS = tasks_of(_NAMED)
JUDGES = frozenset(_JUDGES)

PARAMETRIC = (
    ParametricFamily(
        "recurrent",
        "tanh, GRU and LSTM cells over the rows of digits or Fashion-MNIST, or over characters",
        "8 to 28 steps, width 8 to 64, batch 16 to 128",
        _draw_family,
    ),
)

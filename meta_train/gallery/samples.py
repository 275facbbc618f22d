"""A sample of what a task learns from: images with their labels, or passages of a text."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tasks import DataSource
from tasks.benchmark.report.palette import INK, MUTED
from tasks.benchmark.report.plots import new_figure
from tasks.texts import CHARACTERS, TextData

ROWS, COLUMNS = 4, 8
CELL, LABEL, TOP = 0.8, 0.19, 0.42  # inches: an image, the line under it, the title
PASSAGES = 4
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Zalando's names of Fashion-MNIST's labels."""


def holds_images(data: DataSource) -> bool:
    """Whether the examples are grey or colour images."""
    inputs, _ = data.draw(torch.Generator().manual_seed(0), (1,), "train")
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def image_grid(data: DataSource, title: str, *, seed: int = 0) -> Figure:
    """Images of the training split, each with its label under it, if it has one.

    Args:
        data: Whose examples are images.
        title: Above them.
        seed: Draws them.
    """
    images, labels = data.draw(torch.Generator().manual_seed(seed), (ROWS * COLUMNS,), "train")
    labelled = labels.ndim == 1
    step = CELL + 0.1 + (LABEL if labelled else 0)
    width, height = COLUMNS * (CELL + 0.1) + 0.1, ROWS * step + TOP + 0.1
    figure, axes = new_figure("", width=width, height=height)
    axes.remove()
    figure.set_layout_engine("none")
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", color=INK, fontsize=11.5, fontweight="bold")
    for index, image in enumerate(_displayed(images)):
        row, column = divmod(index, COLUMNS)
        left, top = 0.1 + column * (CELL + 0.1), TOP + row * step
        place = (left / width, 1 - (top + CELL) / height, CELL / width, CELL / height)
        cell = figure.add_axes(place)
        cell.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        cell.set_axis_off()
        if labelled:
            cell.set_title(_name(data, int(labels[index])), y=-0.05, pad=0, va="top", color=MUTED, fontsize=8)
    return figure


def _displayed(images: Tensor) -> Tensor:
    """Images ``[N, height, width]`` or ``[N, height, width, 3]`` in [0, 1], the 1 % of extremes clipped."""
    low, high = torch.quantile(images.flatten()[: 2**20], torch.tensor([0.005, 0.995]))
    shown: Tensor = ((images - low) / (high - low)).clamp(0, 1).movedim(1, -1).squeeze(-1)
    return shown


def _name(data: DataSource, label: int) -> str:
    names = getattr(data, "names", None) or (FASHION if "fashion" in getattr(data, "name", "") else ())
    return str(names[label])[:14] if names else str(label)


def passages(data: TextData, *, seed: int = 0) -> list[str]:
    """Windows of the training text, as they are read."""
    windows, _ = data.draw(torch.Generator().manual_seed(seed), (PASSAGES,), "train")
    return [_spelled(window.tolist(), data.unit) for window in windows]


def _spelled(tokens: list[int], unit: str) -> str:
    if unit == "byte":
        return bytes(tokens).decode(errors="replace")
    return "".join((*CHARACTERS, "\N{REPLACEMENT CHARACTER}")[token] for token in tokens)

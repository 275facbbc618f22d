"""What every case trains, how two runs are compared, and the table of cases."""

from collections.abc import Callable
from functools import cache, partial
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from learned_opt import FLT

STEPS = 20
BATCH = 24
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1}
OPTIMIZERS = {
    "FLT": partial(FLT, orthogonalize=False, **OPTIONS),
    "AdamW": partial(AdamW, **OPTIONS),
}
"""Newton-Schulz iterations enlarge what is rounded otherwise; one case has them."""

Make = Callable[..., Optimizer]
Figures = dict[str, float | int]
"""Differences as floats, which rounding may make, and counts of what must not be as ints."""
Case = Callable[[Make], Figures]


class Entry(NamedTuple):
    """A case and where it runs."""

    case: Case
    ranks: tuple[int, ...]
    optimizers: tuple[str, ...]


CASES: dict[str, Entry] = {}
FOLDER = Path()
"""Where cases leave files for those of another number of processes; the worker sets it."""


def case(*ranks: int, only: tuple[str, ...] = tuple(OPTIMIZERS)) -> Callable[[Case], Case]:
    """Enter a function under its name, to be run by these numbers of processes with these optimizers.

    It is given what makes the optimizer, and returns figures of which 0 is the best.
    """

    def enter(function: Case) -> Case:
        CASES[function.__name__] = Entry(function, ranks, only)
        return function

    return enter


@cache
def line() -> DeviceMesh:
    """All processes in a row, on CPU also where there is an accelerator."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


@cache
def square() -> DeviceMesh:
    """Four processes, two by two."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small network whose every axis is cut unevenly by 2 or 4, some into parts that are empty."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(6, 13), nn.LayerNorm(13), nn.GELU(), nn.Linear(13, 5), nn.GELU(), nn.Linear(5, 1)
        return nn.Sequential(*layers).to(dtype)


def batch(step: int) -> Tensor:
    """The whole batch of a step."""
    return torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(step))


def share(whole: Tensor) -> Tensor:
    """This process's rows of a batch."""
    return whole.chunk(dist.get_world_size())[dist.get_rank()]


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    """How far the network is from a fixed function of its input."""
    target = rows[:, :1] * rows[:, 1:2] + rows[:, 2:].sin().sum(1, keepdim=True)
    return (model(rows) - target).square().mean()


def train(model: nn.Module, optimizer: Optimizer, steps: range, rows: Callable[[Tensor], Tensor]) -> None:
    """Train on these rows of each step's batch."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, rows(batch(step))).backward()
        optimizer.step()


def train_alone(make: Make, steps: range = range(STEPS)) -> list[Tensor]:
    """The parameters after one process has trained on whole batches."""
    model = network()
    train(model, make(model.parameters()), steps, lambda whole: whole)
    return whole_tensors(model.parameters())


def whole_tensors(tensors) -> list[Tensor]:
    """Copies of the whole tensors, gathered where they are cut."""

    def whole(tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    return [whole(tensor).detach().clone() for tensor in tensors]


def apart(left, right, start=None) -> float:
    """Largest difference of two runs in any tensor, in units of the largest move in that tensor.

    Args:
        left: Tensors after one run.
        right: After the other.
        start: Before both; those of `network` by default.
    """
    start = network().parameters() if start is None else start
    triples = zip(*map(whole_tensors, (left, right, start)), strict=True)
    return max((_apart(*triple) for triple in triples if triple[0].numel()), default=0.0)


def _apart(left: Tensor, right: Tensor, start: Tensor) -> float:
    difference, move = (left - right).abs().max().item(), (right - start).abs().max().item()
    return 0.0 if difference == 0.0 else difference / move if isfinite(difference) else inf


def unequal_bits(left, right) -> int:
    """How many elements differ."""
    pairs = zip(whole_tensors(left), whole_tensors(right), strict=True)
    return sum(int((a != b).sum()) for a, b in pairs)


def unequal_between_ranks(tensors) -> int:
    """How many elements differ from those of process 0."""
    mine = whole_tensors(tensors)
    first = [tensor.clone() for tensor in mine]
    for tensor in first:
        dist.broadcast(tensor, 0)
    return unequal_bits(mine, first)

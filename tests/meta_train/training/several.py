"""Run by torchrun: short runs of two processes; a line of JSON for each case has what both met."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from meta_train.commands import train
from meta_train.training.processes import World, join_world
from meta_train.training.session import Observer, Session
from tests.meta_train.training.runs import command

SGD = ("--opt", "sgd", "--lr", "0.05")
BROKEN = (*SGD, "--max-broken", "0.9", "--stop-after", "1")


class Drawing(torch.optim.SGD):
    """Adds noise to the weights, as in Langevin dynamics."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(torch.randn_like(parameter), alpha=1e-3)


def begin(run: list[str], world: World) -> Session:
    """A run as the command sets it up."""
    return train.prepare(train.parse_command(run[1:]), world)[0]


def go(run: list[str], world: World, *, stops: Callable[[], bool] = lambda: False) -> Session:
    """A run as far as it goes; when this returns, its files are written."""
    session = begin(run, world)
    session.run(Observer(stepped=lambda *_: None, ended=lambda _: None, stops=stops))
    distributed.barrier()
    return session


def refusal(run: list[str], world: World) -> str:
    """Why a run does not begin."""
    try:
        begin(run, world)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def stopped(run: list[str], step: int, world: World) -> None:
    """A run that stops after a step and goes on."""
    go([*run, "--stop-after", str(step)], world)
    go([*run, "--resume"], world)


def draws(data: Path, out: Path, world: World) -> Any:
    """An optimizer that draws: how far this process's weights are from the largest."""
    build = train.build_optimizer
    train.build_optimizer = lambda _, model, **__: Drawing(model.parameters(), lr=0.05)
    model = go(command(data, out / "draws", "--dropout", "0.1"), world).trainer.model
    stopped(command(data, out / "draws-4", "--dropout", "0.1"), 4, world)
    train.build_optimizer = build
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return float((world.maximum(weights.clone()) - weights).abs().max())


def batch_norm(data: Path, out: Path, world: World) -> Any:
    """Batch norm and a moving average of the weights, stopped at the end of an epoch and within one."""

    def run(name: str) -> list[str]:
        name_of_command, *options = command(data, out / name, "--ema", "0.6", *SGD)
        return [name_of_command, "test_resnet", *options]

    go(run("norm"), world)
    stopped(run("norm-3"), 3, world)
    stopped(run("norm-5"), 5, world)


def own_folders(data: Path, out: Path, world: World) -> Any:
    """Each process once without the checkpoint that the other finds."""
    go(command(data, out / "shared", *SGD, "--stop-after", "2"), world)
    folders = (out / ("own" if world.rank == without else "shared") for without in (0, 1))
    return [refusal([*command(data, folder, *SGD), "--resume"], world) for folder in folders]


def other_options(data: Path, out: Path, world: World) -> Any:
    """Other options than those of the run, of which the first process alone knows."""
    return refusal([*command(data, out / "shared", *SGD), "--epochs", "3", "--resume"], world)


def second_order(data: Path, out: Path, world: World) -> Any:
    """An optimizer that differentiates gradients."""
    return refusal(command(data, out / "second", "--opt", "adahessian"), world)


def wish(data: Path, out: Path, world: World) -> Any:
    """Ctrl-C that the second process alone hears, in the first step."""
    session = go(command(data, out / "wish", *SGD), world, stops=lambda: world.rank == 1)
    return session.interrupted, session.trainer.progress.step


def broken_images(data: Path, out: Path, world: World) -> Any:
    """A run that stops within an epoch: the broken images that this process's checkpoint would name."""
    for path in data.glob("train/*/[0-5].jpg"):
        path.write_bytes(b"no image")
    return go(command(data, out / "broken", *BROKEN), world).data.broken["train"].indices()


def main(data: str, out: str) -> None:
    """Do all of this."""
    with join_world("cpu") as world:
        for case in (draws, batch_norm, own_folders, other_options, second_order, wish, broken_images):
            everyone: list[Any] = [None] * world.size
            distributed.all_gather_object(everyone, case(Path(data), Path(out), world))
            if world.is_first:
                print(json.dumps([case.__name__, everyone]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

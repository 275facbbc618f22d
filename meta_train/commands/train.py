"""``learned-opt train``: an image classifier, with any optimizer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from meta_train.commands import CommandError, Stopped, parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, duration, say, shown
from meta_train.training.data import Batches, open_data
from meta_train.training.fit import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    Epoch,
    Schedule,
    Trainer,
    TrainingDivergedError,
)
from meta_train.training.models import SMALL_VIT, build_model
from meta_train.training.optimizers import build_optimizer
from tasks.files import writable_folder


@dataclass(frozen=True)
class TrainCommand:
    """Train an image classifier with any optimizer by name, ours or timm's.

    Args:
        model: Any of timm's models, such as vit_small_patch16_224 or resnet18; or vit-small-images, a small
            Vision Transformer that fits images of any size.
        data: digits, fashion-mnist, or a folder of images: train and validation subfolders with one
            subfolder a class, or just one subfolder a class.
        opt: flt (the learned optimizer that ships), the folder of a saved one, or one of timm's: adamw, ...
        lr: Learning rate at its peak; by default the optimizer's own.
        weight_decay: Weight decay, of all but biases and norms.
        epochs: Passes through the training images.
        batch_size: Images a step.
        warmup: Share of all steps in which the learning rate rises.
        schedule: What the learning rate does after the warm-up.
        image_size: Side to which images are resized; by default what suits model and data.
        workers: Processes that read image files.
        device: Where to compute, cpu or cuda.
        seed: Draws the initial weights and the order of the images.
        out: Folder for metrics.jsonl and checkpoint.pt, in place of earlier ones.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = SMALL_VIT
    data: str = "digits"
    opt: str = "flt"
    lr: float | None = None
    weight_decay: float = 0.0
    epochs: int = 30
    batch_size: int = 64
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    image_size: int | None = None
    workers: int = 2
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/train")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup is {self.warmup}; expected a share of at least 0 and below 1")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; expected at least 0")


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(TrainCommand, "train", options)
    device = require_device(command.device)
    torch.manual_seed(command.seed)
    random.seed(command.seed)  # timm's augmentation draws from it
    data = open_data(command.data)
    model, size = build_model(command.model, data.kind, image_size=command.image_size)
    model = model.to(device)
    optimizer = build_optimizer(command.opt, model, lr=command.lr, weight_decay=command.weight_decay)
    out = writable_folder(command.out)
    loaders = data.loaders(size, command.batch_size, seed=command.seed, workers=command.workers)
    total = command.epochs * len(loaders[0])
    schedule = Schedule(total, round(command.warmup * total), command.schedule == "cosine")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = f"{command.data} ({size} by {size})"
    say(f"{command.model} ({parameters:,} parameters) on {images} with {command.opt}")
    best = _train(Trainer(model, optimizer, schedule, out), loaders, command.epochs)
    say(f"Best validation accuracy {best.validation_accuracy:.1%}, in epoch {best.epoch}.")
    say(f"Metrics: {shown(out / METRICS_NAME)}   Checkpoint: {shown(out / CHECKPOINT_NAME)}")


def _train(trainer: Trainer, loaders: tuple[Batches, Batches], epochs: int) -> Epoch:
    """All epochs, with their progress; the best of them."""
    done: list[Epoch] = []
    columns = (
        SpinnerColumn(),
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("steps  {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        total = epochs * len(loaders[0])
        task = bar.add_task("", total=total, epoch=1, loss="")

        def show(loss: float) -> None:
            bar.update(task, advance=1, loss=f"loss {loss:.3f}")

        try:
            for epoch in range(1, epochs + 1):
                bar.update(task, epoch=epoch)
                done.append(trainer.run_epoch(*loaders, on_step=show))
                say(_line(done[-1], epochs))
        except KeyboardInterrupt:
            kept = f"; {trainer.out} holds epoch {len(done)}" if done else ""
            raise Stopped(f"Stopped in epoch {len(done) + 1} of {epochs}{kept}.") from None
        except TrainingDivergedError as error:
            raise CommandError(str(error)) from error
    return max(done, key=lambda epoch: epoch.validation_accuracy)


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  training loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  accuracy {epoch.validation_accuracy:6.1%}  "
        f"{duration(epoch.seconds)}"
    )

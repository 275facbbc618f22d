"""The training loop."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meta_train.training.data import Batches
from tasks.benchmark.schedules import cosine
from tasks.files import atomic_write_bytes

METRICS_NAME, CHECKPOINT_NAME = "metrics.jsonl", "checkpoint.pt"


class TrainingDivergedError(RuntimeError):
    """The training loss was not finite."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave.

    Attributes:
        epoch: Its number, from 1.
        step: Optimizer steps so far.
        lr: Learning rate after it.
        train_loss: Mean over its batches.
        validation_loss: Mean over the validation images.
        validation_accuracy: Share of them that are classified rightly.
        seconds: Since the start.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """Learning rates relative to the peak: a linear warm-up, then half a cosine or a constant.

    Args:
        total: Steps in all.
        warmup: Steps of the warm-up.
        cosine: Whether it then falls to 0.
    """

    total: int
    warmup: int
    cosine: bool

    def factor(self, step: int) -> float:
        """The factor at a step, from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return 1.0
        return cosine(step - self.warmup, max(1, self.total - self.warmup))


class Trainer:
    """A model in training.

    Args:
        model: On its device.
        optimizer: Over its parameters.
        schedule: Scales the optimizer's learning rates.
        out: A folder that exists, for metrics and checkpoints.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, out: Path
    ) -> None:
        self.model, self.optimizer, self.schedule, self.out = model, optimizer, schedule, out
        self.device = next(model.parameters()).device
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step = self.epoch = 0
        self.started = time.monotonic()
        (out / METRICS_NAME).write_text("")

    def run_epoch(
        self, train: Batches, validation: Batches, on_step: Callable[[float], None] | None = None
    ) -> Epoch:
        """Train for an epoch, validate, and write metrics and a checkpoint.

        Args:
            train: Batches of the epoch.
            validation: Batches to validate on.
            on_step: Called with the loss after every step.

        Raises:
            TrainingDivergedError: If the loss is not finite.
            OSError: If a file cannot be written.
        """
        self.model.train()
        losses = []
        for images, labels in train:
            losses.append(self._step(images.to(self.device), labels.to(self.device)))
            if on_step is not None:
                on_step(losses[-1])
        self.epoch += 1
        loss, accuracy = evaluate(self.model, validation, self.device)
        result = Epoch(
            self.epoch,
            self.step,
            float(self.optimizer.param_groups[0]["lr"]),
            sum(losses) / len(losses),
            loss,
            accuracy,
            round(time.monotonic() - self.started, 3),
        )
        self._save(asdict(result))
        return result

    def _step(self, images: Tensor, labels: Tensor) -> float:
        factor = self.schedule.factor(self.step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        loss = cross_entropy(self.model(images), labels)
        value = float(loss.detach())
        if not isfinite(value):
            raise TrainingDivergedError(f"the loss is {value} at step {self.step}; try a lower learning rate")
        self.optimizer.zero_grad()
        loss.backward(create_graph=getattr(self.optimizer, "is_second_order", False))  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return value

    def _save(self, metrics: dict[str, Any]) -> None:
        with (self.out / METRICS_NAME).open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        buffer = BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "metrics": metrics,
        }
        torch.save(state, buffer)
        atomic_write_bytes(self.out / CHECKPOINT_NAME, buffer.getvalue())


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[float, float]:
    """Mean loss and accuracy of a classifier."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    for images, labels in batches:
        labels = labels.to(device)
        scores = model(images.to(device))
        loss += float(cross_entropy(scores, labels, reduction="sum"))
        right += int((scores.argmax(1) == labels).sum())
        count += len(labels)
    return loss / count, right / count

"""A training run in its folder: epochs, records, checkpoints, and going on after a stop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from meta_train.log import read_lines
from meta_train.training.data import ImageData, TrainingBatches, ValidationBatches
from meta_train.training.evaluation import Score
from meta_train.training.fit import Trainer
from meta_train.training.record import METRICS_NAME, RunRecord
from meta_train.training.saving import (
    NoCheckpointError,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave.

    Attributes:
        epoch: Its number, from 1.
        step: Optimizer steps so far.
        lr: Learning rate at its end, of the first parameter group.
        train_loss: Mean over its steps.
        validation_loss: Mean over the validation images.
        validation_accuracy: Share of them whose class is the likeliest.
        validation_top5: Share of them whose class is among the five likeliest.
        ema_loss: As above for the moving average of the weights; None if there is none.
        ema_accuracy: The same.
        ema_top5: The same.
        broken: Images that could not be read so far, of both splits.
        images_per_second: In training, all processes together.
        step_seconds: Mean duration of a step.
        optimizer_share: Share of it that the optimizer took.
        waiting_share: Share of it in which images were waited for.
        seconds: Since the start, over all sessions of the run.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    validation_top5: float
    ema_loss: float | None
    ema_accuracy: float | None
    ema_top5: float | None
    broken: int
    images_per_second: float
    step_seconds: float
    optimizer_share: float
    waiting_share: float
    seconds: float

    @property
    def best_accuracy(self) -> float:
        """The higher of the model's and of its moving average's."""
        return max(self.validation_accuracy, self.ema_accuracy or 0.0)


@dataclass
class Speed:
    """Seconds and steps of a stretch of training.

    Attributes:
        seconds: In all.
        optimizing: In the optimizer.
        waiting: For images.
        steps: How many.
    """

    seconds: float = 0.0
    optimizing: float = 0.0
    waiting: float = 0.0
    steps: int = 0

    def __add__(self, other: "Speed") -> "Speed":
        return Speed(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Speed)))

    def figures(self, batch_size: int) -> dict[str, float]:
        """Rates and shares for the records."""
        seconds = max(self.seconds, 1e-9)
        return {
            "images_per_second": round(self.steps * batch_size / seconds, 2),
            "step_seconds": round(seconds / max(self.steps, 1), 6),
            "optimizer_share": round(self.optimizing / seconds, 4),
            "waiting_share": round(self.waiting / seconds, 4),
        }


@dataclass(frozen=True)
class Observer:
    """What is told of a run while it goes, and asked.

    Attributes:
        stepped: Told the number of steps done and, where it was just read, the loss.
        ended: Told of every epoch.
        stops: Asked after every step whether to save and stop.
    """

    stepped: Callable[[int, float | None], None]
    ended: Callable[[Epoch], None]
    stops: Callable[[], bool]


class Session:
    """A run, from its start or from its last checkpoint.

    Args:
        trainer: With the model and the optimizer.
        data: The images.
        train: To train on.
        validation: To validate on.
        out: Folder of the run.
        identity: What a run that goes on must have in common with this one; the first process has it.
        resume: Go on from the last checkpoint in the folder, if there is one.

    Attributes:
        interrupted: Whether the run stopped since a process wished it.

    Raises:
        NoCheckpointError: If there is one that cannot be used, or the processes found different ones.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: ImageData,
        train: TrainingBatches,
        validation: ValidationBatches,
        *,
        out: Path,
        identity: Mapping[str, Any] | None,
        resume: bool,
    ) -> None:
        self.trainer, self.data, self.train, self.validation = trainer, data, train, validation
        self.out, self.identity = out, identity
        self.config, self.world = trainer.config, trainer.world
        state = self._load(resume)
        if state is not None:
            trainer.load_state_dict(state["trainer"])
            for split, indices in state["broken"].items():
                data.broken[split].mark(indices)
        elif self.world.is_first:
            remove_checkpoints(out)
        self.resumed = None if state is None else trainer.progress
        self.record = RunRecord(out, resumed=self.resumed) if self.world.is_first else None
        self._began = time.monotonic() - trainer.progress.seconds
        self._speed = Speed()
        self.interrupted = False
        self._wished = torch.zeros(1)

    def run(self, observer: Observer) -> bool:
        """Train to the end.

        Returns:
            Whether it came to the end, rather than being told to stop.

        Raises:
            TrainingDivergedError: If the loss was not finite.
            ValueError: If images are broken or wrongly labelled.
            OSError: If a file cannot be written.
        """
        progress = self.trainer.progress
        if self.config.stop_after is not None and progress.step >= self.config.stop_after:
            return False
        try:
            while progress.epoch < self.config.epochs:
                if not self._train(observer):
                    return False
                result = self._end_epoch()
                observer.ended(result)
            return True
        finally:
            if self.record is not None:
                self.record.close()

    def _load(self, resume: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one; all processes refuse it if one does."""
        state = refusal = None
        try:
            state = load_checkpoint(self.out, self.identity) if resume else None
        except NoCheckpointError as error:
            refusal = error
        step = -1 if state is None else state["trainer"]["progress"]["step"]
        met = torch.tensor([step, -step, int(refusal is not None)])
        last, first, refused = self.world.maximum(met).tolist()
        if refused:
            raise refusal or NoCheckpointError(f"another process refuses the checkpoint in {self.out}")
        if last != -first:
            raise NoCheckpointError(
                f"the processes found different checkpoints in {self.out}; the folder must be shared"
            )
        return state

    def _train(self, observer: Observer) -> bool:
        """The rest of the epoch under way; whether it came to its end."""
        config, self._speed = self.config, Speed()
        schedule = self.trainer.schedule(config.epochs * self.train.steps)
        for step in self.trainer.steps(self.train, schedule):
            self.interrupted = self._agree(observer.stops())
            stops = self.interrupted or step == config.stop_after
            saves = stops or step % config.checkpoint_every == 0
            loss = self._log(step) if saves or step % config.log_every == 0 else None
            observer.stepped(step, loss)
            if saves:
                self._share_broken()
                self._save()
            if stops:
                return False
        return True

    def _agree(self, wish: bool) -> bool:
        """Whether a process wishes to stop; several learn it a step later, so that no GPU is waited for."""
        if self.world.size == 1:
            return wish
        wished = self._wished
        self._wished = self.world.maximum(torch.full((1,), float(wish), device=self.world.device))
        return bool(wished)

    def _log(self, step: int) -> float:
        """Read the losses since the last time, and write their mean and the speed."""
        count = self.trainer.pending
        loss = self.trainer.drain()
        for broken in self.data.broken.values():
            broken.check()
        speed = Speed(*self.trainer.stopwatch.read(), count)
        self._speed += speed
        if self.record is not None:
            lr = float(self.trainer.optimizer.param_groups[0]["lr"])
            figures = {"step": step, "loss": loss, "lr": lr, "seconds": self._seconds()}
            self.record.add_step({**figures, **speed.figures(self.train.batch_size)})
        return loss

    def _end_epoch(self) -> Epoch:
        """Validate, write the figures, and save."""
        trainer, progress = self.trainer, self.trainer.progress
        if trainer.pending:
            self._log(progress.step)
        plain, averaged = trainer.validate(self.validation)
        self._share_broken()
        result = Epoch(
            epoch=progress.epoch + 1,
            step=progress.step,
            lr=float(trainer.optimizer.param_groups[0]["lr"]),
            train_loss=progress.loss / self.train.steps,
            **_scores("validation", plain),
            **_scores("ema", averaged),
            broken=sum(len(broken.indices()) for broken in self.data.broken.values()),
            **self._speed.figures(self.train.batch_size),
            seconds=self._seconds(),
        )
        trainer.end_epoch()
        if self.record is not None:
            self.record.add_epoch(asdict(result))
        self._save()
        return result

    def _share_broken(self) -> None:
        for broken in self.data.broken.values():
            broken.share_among(self.world)
            broken.check()

    def _save(self) -> None:
        if not self.world.is_first:
            return
        assert self.identity is not None
        self.trainer.progress.seconds = self._seconds()
        broken = {split: images.indices() for split, images in self.data.broken.items()}
        save_checkpoint(self.out, self.identity, {"trainer": self.trainer.state_dict(), "broken": broken})

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)


def read_epochs(folder: Path) -> list[Epoch]:
    """What the epochs of a run gave, in order."""
    return [Epoch(**record) for record in read_lines(folder / METRICS_NAME)]


def _scores(name: str, score: Score | None) -> dict[str, Any]:
    if score is None:
        return {f"{name}_loss": None, f"{name}_accuracy": None, f"{name}_top5": None}
    return {f"{name}_loss": score.loss, f"{name}_accuracy": score.top1, f"{name}_top5": score.top5}

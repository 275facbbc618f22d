"""The training loop."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from meta_train.training.augmentation import BatchAugmentation
from meta_train.training.config import FitConfig
from meta_train.training.data import Batch, TrainingBatches, ValidationBatches
from meta_train.training.evaluation import Score, evaluate
from meta_train.training.optimizers import schedules_itself
from meta_train.training.processes import World
from meta_train.training.randomness import seed_generators
from meta_train.training.schedule import Schedule
from meta_train.training.stopwatch import Stopwatch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingDivergedError(RuntimeError):
    """The training loss was not finite."""


@dataclass
class Progress:
    """Where a run stands; with the states of model and optimizer, all that the next step depends on.

    Attributes:
        epoch: Whole epochs done.
        step: Optimizer steps done.
        position: Those of them that were in the epoch under way.
        loss: Sum of the losses in the epoch under way.
        seconds: Spent training, over all sessions of the run.
    """

    epoch: int = 0
    step: int = 0
    position: int = 0
    loss: float = 0.0
    seconds: float = 0.0


class Trainer:
    """A model in training.

    Args:
        model: On its device.
        optimizer: Over its parameters.
        augmentation: Of batches, with the loss that fits.
        config: How to train; what it leaves open of the learning rate goes by the optimizer.
        seed: Of all that is random in a step.
        world: The processes; each has its own trainer.

    Raises:
        ValueError: If the optimizer needs one process.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        augmentation: BatchAugmentation,
        config: FitConfig,
        *,
        seed: int,
        world: World,
    ) -> None:
        from timm.utils import ModelEmaV3, NativeScaler

        self.model, self.optimizer, self.augmentation = model, optimizer, augmentation
        self.config = config.scheduled(constant=schedules_itself(optimizer))
        self.seed, self.world = seed, world
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        self.ema = None if config.ema is None else ModelEmaV3(model, decay=config.ema)
        self.scaler: Any = NativeScaler(world.device.type) if config.amp == "fp16" else None
        self.replica = _replica(model, optimizer, world)
        network: Any = self.replica or model
        self.network: Any = torch.compile(network) if config.compiled else network
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.progress = Progress()
        self.stopwatch = Stopwatch(optimizer, world.device)
        self._losses: list[Tensor] = []

    def schedule(self, total: int) -> Schedule:
        """The learning rate over so many steps."""
        peak, config = max(self.peaks) or 1.0, self.config
        assert config.warmup is not None
        warmup = round(config.warmup * total)
        start, floor = config.warmup_lr / peak, config.min_lr / peak
        return Schedule(total, warmup, config.schedule == "cosine", start, floor)

    def steps(self, train: TrainingBatches, schedule: Schedule) -> Iterator[int]:
        """Train for the rest of the epoch under way; yields the number of steps done, after each.

        Raises:
            ValueError: If images are broken or wrongly labelled.
        """
        progress, pieces = self.progress, train.epoch(self.progress.epoch, self.progress.position)
        self.model.train()
        self.stopwatch.start()
        while progress.position < train.steps:
            self._step(pieces, schedule.factor(progress.step))
            yield progress.step

    def validate(self, batches: ValidationBatches) -> tuple[Score, Score | None]:
        """Scores of the model and of the moving average of its weights, if there is one."""
        from timm.utils import distribute_bn

        if self.world.size > 1:  # what a checkpoint has is the first process's
            distribute_bn(self.model, self.world.size, reduce=False)
            if self.ema is not None:
                distribute_bn(self.ema.module, self.world.size, reduce=False)

        def score(model: nn.Module) -> Score:
            return evaluate(
                model, batches, self.world, autocast=self.autocast, memory_format=self.memory_format
            )

        return score(self.model), None if self.ema is None else score(self.ema.module)

    @property
    def pending(self) -> int:
        """Steps whose losses have not been read yet."""
        return len(self._losses)

    def drain(self) -> float:
        """Wait for the losses since the last time, and add them to the epoch's; their mean.

        Raises:
            TrainingDivergedError: If it is not finite.
        """
        if not self._losses:
            return 0.0
        losses = self.world.sum(torch.stack(self._losses).double().cpu()) / self.world.size
        self._losses.clear()
        for loss in losses.tolist():
            self.progress.loss += loss
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            first = int(wrong[0])
            step = self.progress.step - len(losses) + first + 1
            raise TrainingDivergedError(
                f"the loss is {float(losses[first])} at step {step}; try a lower learning rate"
            )
        return float(losses.mean())

    def end_epoch(self) -> None:
        """Move on to the next epoch."""
        self.progress.epoch += 1
        self.progress.position, self.progress.loss = 0, 0.0

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model computes."""
        if self.config.amp == "off":
            return nullcontext()
        return torch.autocast(self.world.device.type, DTYPES[self.config.amp])

    def _step(self, pieces: Iterator[Batch], factor: float) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()
        losses = [self._pass(piece, pieces) for piece in range(self.config.accumulate)]
        self._losses.append(torch.stack(losses).sum())
        self.progress.step += 1
        self.progress.position += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.progress.step)

    def _pass(self, piece: int, pieces: Iterator[Batch]) -> Tensor:
        """One forward and backward pass, after the last of which comes the step; its share of the loss."""
        asked = time.perf_counter()
        images, labels = next(pieces, (None, None))
        if images is None or labels is None:
            raise ValueError(f"the images of an epoch ended after {self.progress.position} steps")
        self.stopwatch.waited(asked)
        seed_generators(self.seed, "step", self.progress.step, piece, self.world.rank)
        images, targets = self.augmentation(images.to(self.world.device), labels.to(self.world.device))
        images = images.contiguous(memory_format=self.memory_format)
        last = piece == self.config.accumulate - 1
        with self._synchronised(last), self._attention():
            with self.autocast():
                loss: Tensor = self.augmentation.loss(self.network(images), targets) / self.config.accumulate
            self._descend(loss, steps=last)
        return loss.detach()

    def _descend(self, loss: Tensor, *, steps: bool) -> None:
        from timm.models import model_parameters
        from timm.utils import dispatch_clip_grad

        config, graph = self.config, getattr(self.optimizer, "is_second_order", False)
        clipped = model_parameters(self.model, exclude_head=config.clip_mode == "agc")
        if self.scaler is not None:
            self._seed_optimizer()
            self.scaler(
                loss,
                self.optimizer,
                clip_grad=config.clip_grad,
                clip_mode=config.clip_mode,
                parameters=clipped,
                create_graph=graph,
                need_update=steps,
            )
            return
        loss.backward(create_graph=graph)  # type: ignore[no-untyped-call]
        if steps:
            if config.clip_grad is not None:
                dispatch_clip_grad(clipped, config.clip_grad, mode=config.clip_mode)
            self._seed_optimizer()
            self.optimizer.step()

    def _seed_optimizer(self) -> None:
        """What an optimizer draws is the same in all processes."""
        seed_generators(self.seed, "optimizer", self.progress.step)

    def _attention(self) -> AbstractContextManager[object]:
        """Attention whose gradients can be differentiated again, where the optimizer does."""
        if getattr(self.optimizer, "is_second_order", False):
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Gradients are averaged over the processes in the last pass of a step alone."""
        return nullcontext() if last or self.replica is None else self.replica.no_sync()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and plain values."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress).copy(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def _replica(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> DistributedDataParallel | None:
    """The model in step with its copies in other processes, if there are any."""
    if world.size == 1:
        return None
    if getattr(optimizer, "is_second_order", False):
        name = type(optimizer).__name__
        raise ValueError(f"{name} differentiates gradients; expected one process, not {world.size}")
    return DistributedDataParallel(model, device_ids=[world.device] if world.device.type == "cuda" else None)

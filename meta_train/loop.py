"""The outer loop: perturb, unroll, estimate, step; log, validate, checkpoint."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.checkpoint import save_checkpoint
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.flat import flatten, unflatten
from meta_train.interrupt import InterruptFlag
from meta_train.log import RunLog
from meta_train.population import Population
from meta_train.state import load_state, save_state
from meta_train.validation import Validation, Validator
from tasks.files import writable_folder

WARMUP = 0.02
MAX_SKIPPED = 20
NORM_MEMORY = 0.95


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by Ctrl-C after saving its state in ``folder``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"stopped; its state is saved in {folder}")
        self.folder = folder


class DivergedError(RuntimeError):
    """The meta-gradient was not finite too many times in a row."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Outer steps done.
        total: Outer steps in all.
        seconds: Spent so far, over all resumptions.
        inner_steps: Inner steps of single members so far.
        meta_loss: Mean over families at this step.
        score: Best validation score so far; below 0 is better than tuned Adam. None before the first.
    """

    step: int
    total: int
    seconds: float
    inner_steps: int
    meta_loss: float
    score: float | None


def meta_train(
    config: MetaTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
) -> Path:
    """Meta-train an optimizer.

    Args:
        config: What to run.
        out: Folder for the optimizer (``config.json`` and ``model.safetensors``, the best so far by
            validation), the log, TensorBoard events and the state to resume from.
        resume: Continue the run in ``out``.
        on_progress: Called after every outer step.
        on_interrupt: Called on the first Ctrl-C, after which the current outer step is finished and saved; a
            second Ctrl-C stops at once, at the last checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: If ``out`` holds a run of another configuration, or one and ``resume`` is false.
        OSError: If ``out`` cannot be written.
        Interrupted: On Ctrl-C, once there is a saved state to continue from.
        KeyboardInterrupt: On Ctrl-C before that.
        DivergedError: If the meta-gradient was not finite 20 times in a row.
    """
    trainer = MetaTrainer(config, writable_folder(out), resume=resume)
    with InterruptFlag(on_interrupt) as interrupt, closing(trainer.log):
        try:
            while trainer.step < config.outer_steps and not interrupt.raised:
                progress = trainer.advance()
                if on_progress is not None:
                    on_progress(progress)
        except KeyboardInterrupt:
            raise Interrupted(out) from None
        except Exception as error:
            if interrupt.raised:  # a terminal sends Ctrl-C to the C++ compiler too
                raise Interrupted(out) from error
            raise
        if trainer.step < config.outer_steps:
            trainer.save()
            raise Interrupted(out)
    return out


class MetaTrainer:
    """A run between two outer steps: all that the next one depends on.

    Args:
        config: What to run.
        out: A folder that exists.
        resume: Continue from the state saved there.
    """

    def __init__(self, config: MetaTrainConfig, out: Path, *, resume: bool) -> None:
        self.config, self.out = config, out
        saved = load_state(out, config, resume=resume)
        self.rule = UpdateRule(config.rule)
        self.like = self.rule.init_meta(seed=config.seed)
        self.theta = flatten(self.like).requires_grad_()
        self.best = self.theta.detach().clone()
        self.best_score: float | None = None
        self.outer = torch.optim.AdamW([self.theta], lr=config.learning_rate, weight_decay=0.0)
        self.populations = [Population(name, config, self.rule, self.like) for name in config.families]
        self.square_norms = torch.zeros(len(config.families))
        self.step = self.inner_steps = self.skipped_in_row = 0
        self.seconds = 0.0
        if saved:
            self._load(saved)
        self.log = RunLog(out, resumed_at=self.step)
        self.last_save = time.monotonic()
        self.validator = Validator(
            config.validation,
            self.rule,
            self.like,
            steps=config.validation_steps,
            compression=config.compression,
            compiled=config.compiled,
        )
        if not saved:
            self.save()

    def advance(self) -> Progress:
        """Take one outer step, validate and save if it is time."""
        config, started = self.config, time.monotonic()
        theta = self.theta.detach()
        gradients, losses = zip(*(family.meta_gradient(theta) for family in self.populations), strict=True)
        gradient, norm = self._combine(torch.stack(gradients))
        self._outer_step(gradient)
        self.step += 1
        self.inner_steps += 2 * config.pairs * config.truncation * len(config.families)
        record: dict[str, Any] = {
            "meta_loss": sum(losses) / len(losses),
            **{f"meta_loss/{name}": loss for name, loss in zip(config.families, losses, strict=True)},
            "grad_norm": norm,
            "inner_steps": self.inner_steps,
            "diverged": sum(population.diverged for population in self.populations),
        }
        last = self.step == config.outer_steps
        if last or self.step % config.validation_every == 0:
            record |= self._validate()
        self.seconds += time.monotonic() - started
        self.log.write({"step": self.step, "seconds": round(self.seconds, 3), **record})
        if last or time.monotonic() - self.last_save > config.checkpoint_seconds:
            self.save()
        loss = record["meta_loss"]
        return Progress(self.step, config.outer_steps, self.seconds, self.inner_steps, loss, self.best_score)

    def _combine(self, gradients: Tensor) -> tuple[Tensor, float]:
        """Weigh every family's gradient by the inverse of its usual norm, so that none dominates."""
        if not bool(torch.isfinite(gradients).all()):
            return torch.full_like(self.theta, torch.nan), torch.nan
        self.square_norms = self.square_norms * NORM_MEMORY + (1 - NORM_MEMORY) * gradients.square().sum(1)
        usual = (self.square_norms / (1 - NORM_MEMORY ** (self.step + 1))).sqrt()
        total = (gradients / (usual[:, None] + torch.finfo(usual.dtype).tiny)).sum(0)
        norm = float(total.norm())
        return total * min(1.0, self.config.clip / max(norm, 1e-12)), norm

    def _outer_step(self, gradient: Tensor) -> None:
        if not bool(torch.isfinite(gradient).all()):
            self.skipped_in_row += 1
            if self.skipped_in_row >= MAX_SKIPPED:
                raise DivergedError(
                    f"the meta-gradient was not finite {MAX_SKIPPED} times in a row, at {self.step}"
                )
            return
        self.skipped_in_row = 0
        self.outer.param_groups[0]["lr"] = self.config.learning_rate * self._schedule()
        self.theta.grad = gradient
        self.outer.step()

    def _schedule(self) -> float:
        warmup = max(1.0, WARMUP * self.config.outer_steps)
        progress = self.step / self.config.outer_steps
        return min(1.0, (self.step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + cos(pi * progress)))

    def _validate(self) -> dict[str, float]:
        result: Validation = self.validator(unflatten(self.theta.detach(), self.like))
        if isfinite(result.score) and (self.best_score is None or result.score < self.best_score):
            self.best_score = result.score
            self.best = self.theta.detach().clone()
        adam = {f"validation/{name}/adam": value for name, value in self.validator.adam.items()}
        ours = {f"validation/{name}": value for name, value in result.final.items()}
        return {"validation": result.score, **ours, **adam}

    def save(self) -> None:
        """Write the best optimizer so far and the state to resume from."""
        meta = unflatten(self.best, self.like)
        facts = {
            "meta_training": self.config.as_json(),
            "outer_steps": self.step,
            "inner_steps": self.inner_steps,
            "seconds": round(self.seconds, 1),
            "validation_score": self.best_score,
            "torch": torch.__version__,
        }
        save_checkpoint(self.out, self.config.rule, meta, json.loads(json.dumps(facts)))
        save_state(self.out, self.config, self._state())
        self.last_save = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "theta": self.theta.detach(),
            "best": self.best,
            "best_score": self.best_score,
            "outer": self.outer.state_dict(),
            "square_norms": self.square_norms,
            "step": self.step,
            "inner_steps": self.inner_steps,
            "skipped_in_row": self.skipped_in_row,
            "seconds": self.seconds,
            "populations": {population.name: population.state_dict() for population in self.populations},
        }

    def _load(self, saved: dict[str, Any]) -> None:
        with torch.no_grad():
            self.theta.copy_(saved["theta"])
        self.outer.load_state_dict(saved["outer"])
        for name in saved.keys() - {"theta", "outer", "populations"}:
            setattr(self, name, saved[name])
        for population in self.populations:
            population.load_state_dict(saved["populations"][population.name])

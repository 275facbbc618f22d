"""Meta-training between two outer steps: perturb, unroll, estimate, step; log, validate, checkpoint."""

import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.checkpoint import Checkpoint, save_checkpoint
from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.entries import load_learned
from meta_train.flat import flatten, unflatten
from meta_train.fleet import Estimate, Fleet
from meta_train.log import RunLog, SilentLog
from meta_train.masks import mask_plot, time_scales
from meta_train.ranks import Ranks
from meta_train.schedules import outer_rate
from meta_train.state import load_state, save_state
from meta_train.unroll import Expert
from meta_train.validation import Validation, Validator

MAX_SKIPPED = 20
NORM_MEMORY = 0.95


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
        score: Best validation score so far, the start's among them; below 0 is better than tuned Adam. None
            if none was finite.
        stopped: Whether a process wished to stop.
    """

    step: int
    total: int
    seconds: float
    inner_steps: int
    meta_loss: float
    score: float | None
    stopped: bool = False


class MetaTrainer:
    """A run between two outer steps: all that the next one depends on.

    Args:
        config: What to run.
        out: A folder that exists.
        resume: Continue from the state saved there.
        ranks: The processes that share the work; this one alone by default.
        device: Where to compute.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        out: Path,
        *,
        resume: bool,
        ranks: Ranks | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.out, self.ranks = config, out, ranks or Ranks()
        own = [index for index in range(len(config.units)) if self.ranks.owns(index)]
        saved = load_state(out, config, own, self.ranks, resume=resume)
        with self.ranks.all_or_none():
            self.rule = UpdateRule(config.rule)
            self.like = self.rule.init_meta(seed=config.seed)
            self.theta = flatten(
                _start(config.start, self.rule) if config.start else self.like
            ).requires_grad_()
            self.best = self.theta.detach().clone()
            self.best_score: float | None = None
            self.best_step = 0
            self.outer = torch.optim.AdamW([self.theta], lr=config.learning_rate, weight_decay=0.0)
            expert = _expert(config.expert, device) if config.expert else None
            self.fleet = Fleet(config, self.rule, self.like, self.ranks, expert=expert, device=device)
            self.square_norms = torch.zeros(len(config.families))
            self.step = self.inner_steps = self.skipped = self.skipped_in_row = 0
            self.seconds = 0.0
            if saved:
                self._load(*saved)
            if self.step > config.outer_steps:
                raise ValueError(
                    f"the run has {self.step} outer steps, more than outer_steps {config.outer_steps}"
                )
        self.log = RunLog(out, resumed_at=self.step) if self.ranks.rank == 0 else SilentLog()
        self.last_save = time.monotonic()
        self.validator = Validator(
            config.validation,
            self.rule,
            self.like,
            steps=config.validation_steps,
            compression=config.compression,
            compiled=config.compiled,
            ranks=self.ranks,
            device=device,
        )
        if self.best_score is None:
            self.best_score = self._score_of_start()
        if not saved:
            self.save()

    def advance(self, *, stop: bool = False) -> Progress:
        """Take one outer step, validate and save if it is time.

        Args:
            stop: Whether this process wishes to stop; then all of them do, after this step.
        """
        config, started = self.config, time.monotonic()
        late = time.monotonic() - self.last_save > config.checkpoint_seconds
        sent = self.ranks.sent
        estimate = self.fleet.advance(self.theta.detach(), self.step, stop=stop, save=late)
        sent = self.ranks.sent - sent
        gradient, norm = self._combine(estimate.gradients)
        self._outer_step(gradient)
        self.step += 1
        self.inner_steps += estimate.inner_steps
        record = self._record(estimate, norm) | {"bytes_sent": sent}
        last = self.step == config.outer_steps
        if last or self.step % config.validation_every == 0:
            record |= self._validate()
        self.seconds += time.monotonic() - started
        self.log.write({"step": self.step, "seconds": round(self.seconds, 3), **record})
        if last or estimate.save:
            self.save()
        return Progress(
            self.step,
            config.outer_steps,
            self.seconds,
            self.inner_steps,
            record["meta_loss"],
            self.best_score,
            estimate.stop,
        )

    def _record(self, estimate: Estimate, norm: float) -> dict[str, Any]:
        families = self.config.families
        signal = estimate.gradients.square().sum(1)
        return {
            "meta_loss": float(estimate.losses.mean()),
            **{
                f"meta_loss/{name}": float(loss) for name, loss in zip(families, estimate.losses, strict=True)
            },
            "grad_norm": norm,
            **{
                f"gradient_noise/{name}": float(noise.sum() / total) if total > 0 else 0.0
                for name, noise, total in zip(families, estimate.variances, signal, strict=True)
            },
            "diverged": int(estimate.diverged.sum()),
            "skipped": self.skipped,
            "inner_steps": self.inner_steps,
        }

    def _combine(self, gradients: Tensor) -> tuple[Tensor, float]:
        """Weigh every family's gradient by the inverse of its usual norm, so that none dominates."""
        if not bool(torch.isfinite(gradients).all()):
            return torch.full_like(self.theta, torch.nan), torch.nan
        self.square_norms = self.square_norms * NORM_MEMORY + (1 - NORM_MEMORY) * gradients.square().sum(1)
        seen = max(1, self.step + 1 - self.skipped)
        usual = (self.square_norms / (1 - NORM_MEMORY**seen)).sqrt()
        share = torch.tensor(self.config.weights) / (usual + torch.finfo(usual.dtype).tiny)
        total = (gradients * share[:, None]).sum(0)
        norm = float(total.norm())
        return total * min(1.0, self.config.clip / max(norm, 1e-12)), norm

    def _outer_step(self, gradient: Tensor) -> None:
        if not bool(torch.isfinite(gradient).all()):
            self.skipped += 1
            self.skipped_in_row += 1
            if self.skipped_in_row >= MAX_SKIPPED:
                raise DivergedError(
                    f"the meta-gradient was not finite {MAX_SKIPPED} times in a row, at {self.step}"
                )
            return
        self.skipped_in_row = 0
        rate = outer_rate(self.step, self.config.outer_steps)
        self.outer.param_groups[0]["lr"] = self.config.learning_rate * rate
        self.theta.grad = gradient
        self.outer.step()

    def _score_of_start(self) -> float | None:
        """What the first validation has to beat: 0 for the rule that is Adam, by definition of the score."""
        if not self.config.start:
            return 0.0
        score = self.validator(unflatten(self.best, self.like)).score
        return score if isfinite(score) else None

    def _validate(self) -> dict[str, float]:
        meta = unflatten(self.theta.detach(), self.like)
        result: Validation = self.validator(meta)
        if isfinite(result.score) and (self.best_score is None or result.score < self.best_score):
            self.best_score, self.best_step = result.score, self.step
            self.best = self.theta.detach().clone()
        checkpoint = Checkpoint(self.config.rule, meta, {})
        self.log.figure("masks", lambda: mask_plot(checkpoint, f"outer step {self.step}"), self.step)
        half_lives = {f"half_life/{scale.name}": scale.half_life for scale in time_scales(checkpoint)}
        adam = {f"validation/{name}/adam": value for name, value in self.validator.adam.items()}
        ours = {f"validation/{name}": value for name, value in result.final.items()}
        return {"validation": result.score, **ours, **adam, **half_lives}

    def save(self) -> None:
        """Write the best optimizer so far and the state to resume from; all processes take part."""
        units = {index: unit.state_dict() for index, unit in self.fleet.units.items()}
        state = self._state()
        save_state(self.out, self.config, self.step, state, units, self.ranks, export=self._export)
        self.last_save = time.monotonic()

    def _export(self) -> None:
        last = self.config.keep == "last"
        kept, step = (self.theta.detach(), self.step) if last else (self.best, self.best_step)
        facts = {
            "meta_training": self.config.as_json(),
            "outer_steps": self.step,
            "kept_outer_step": step,
            "inner_steps": self.inner_steps,
            "seconds": round(self.seconds, 1),
            "processes": self.ranks.size,
            "validation_score": self.best_score if step == self.best_step else None,
            "torch": torch.__version__,
        }
        meta = unflatten(kept, self.like)
        save_checkpoint(self.out, self.config.rule, meta, facts)
        self.log.flush()

    def _state(self) -> dict[str, Any]:
        return {
            "theta": self.theta.detach(),
            "outer": self.outer.state_dict(),
            "fleet": self.fleet.state_dict(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def _load(self, saved: dict[str, Any], units: dict[int, Any]) -> None:
        with torch.no_grad():
            self.theta.copy_(saved["theta"])
        self.outer.load_state_dict(saved["outer"])
        self.fleet.load_state_dict(saved["fleet"])
        for name in _PLAIN:
            setattr(self, name, saved[name])
        for index, unit in self.fleet.units.items():
            unit.load_state_dict(units[index])


_PLAIN = (
    "best",
    "best_score",
    "best_step",
    "square_norms",
    "step",
    "inner_steps",
    "skipped",
    "skipped_in_row",
    "seconds",
)


def _start(name: str, rule: UpdateRule) -> Meta:
    """Meta-parameters of a learned optimizer, in the order of the rule's own."""
    found = load_learned(name).meta
    try:
        rule.check_meta(found)
    except ValueError as error:
        raise ValueError(f"start is {name!r}, of another architecture than rule: {error}") from error
    return {key: found[key] for key in rule.init_meta()}


def _expert(name: str, device: str) -> Expert:
    checkpoint = load_learned(name)
    return Expert(
        UpdateRule(checkpoint.config), {key: value.to(device) for key, value in checkpoint.meta.items()}
    )

"""Runs that can be stopped, saved and continued; as a script, a server that continues them elsewhere."""

import sys
from dataclasses import asdict, dataclass
from math import inf, nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from learned_opt import FLT

GRADIENTS = ("drawn", "zero", "missing", "nan", "inf", "frozen")
"""What the gradient of a tensor may be at one step; a frozen one is also told that it needs none."""


@dataclass(frozen=True)
class Group:
    """A parameter group.

    Attributes:
        tensors: Shape of each, the name of its dtype, and whether its last axis moves slowest in memory.
        added: Step before which the group is added; that of the first is 0.
        tensor_lr: Whether the learning rate is a tensor.
        options: Of the group.
    """

    tensors: tuple[tuple[tuple[int, ...], str, bool], ...]
    added: int
    tensor_lr: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A whole run.

    Attributes:
        groups: Parameter groups, in the order in which they are added.
        gradients: One of `GRADIENTS` for each step and tensor.
        stop: Steps before the run is stopped.
        scale: Size of the drawn gradients.
        state_dtype: Name of the memory's dtype.
        named: Whether parameters have names.
        seed: Of the starting values and the gradients.
    """

    groups: tuple[Group, ...]
    gradients: tuple[tuple[str, ...], ...]
    stop: int
    scale: float
    state_dtype: str
    named: bool
    seed: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return len(self.gradients)


class Run:
    """A run of a case, at any of its steps."""

    def __init__(self, case: Case, step: int = 0) -> None:
        self.case, self.step = case, step
        generator = torch.Generator().manual_seed(case.seed)
        self.groups = [[_draw(generator, *tensor) for tensor in group.tensors] for group in case.groups]
        self.params = [param for params in self.groups for param in params]
        if step < case.steps:
            self._freeze()
        first, *later = [index for index, group in enumerate(case.groups) if group.added < max(step, 1)]
        self.optimizer = FLT([self._options(first)], state_dtype=getattr(torch, case.state_dtype))
        for index in later:
            self.optimizer.add_param_group(self._options(index))

    @classmethod
    def load(cls, path: Path) -> "Run":
        """A run at the step at which it was saved."""
        saved = torch.load(path, weights_only=True)
        groups = tuple(Group(**group) for group in saved["case"].pop("groups"))
        run = cls(Case(groups=groups, **saved["case"]), saved["step"])
        for param, value in zip(run.params, saved["params"], strict=True):
            param.detach().copy_(value)
        run.optimizer.load_state_dict(saved["optimizer"])
        return run

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        params = [param.detach() for param in self.params]
        optimizer = self.optimizer.state_dict()
        torch.save(
            {"case": asdict(self.case), "step": self.step, "params": params, "optimizer": optimizer}, path
        )

    def advance(self, stop: int) -> None:
        """Go on to this step; learning rates fall on the way."""
        with catch_warnings():
            simplefilter("ignore")  # gradients that are not finite
            while self.step < stop:
                self._take_step()
                self.step += 1

    def result(self) -> dict[str, Tensor]:
        """Every tensor that the run has made.

        State that is all zero counts as none: what is no longer frozen gets it with its next gradient, or
        when a state dict is loaded before that.
        """
        tensors = {f"parameter {i}": param.detach() for i, param in enumerate(self.params)}
        for i, state in self.optimizer.state_dict()["state"].items():
            if any(value.any() for value in state.values()):
                tensors |= {f"{key} {i}": value for key, value in state.items()}
        for i, group in enumerate(self.optimizer.param_groups):
            tensors[f"learning rate {i}"] = torch.as_tensor(group["lr"])
        return tensors

    def _take_step(self) -> None:
        self._freeze()
        for index, group in enumerate(self.case.groups):
            if group.added == self.step > 0:
                self.optimizer.add_param_group(self._options(index))
        generator = torch.Generator().manual_seed(self.case.seed + 1 + self.step)
        for param, kind in zip(self.params, self.case.gradients[self.step], strict=True):
            drawn = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            grad = (self.case.scale * (drawn + param.detach())).to(param.dtype)
            if kind in ("nan", "inf"):
                grad.view(-1)[:1] = nan if kind == "nan" else inf
            param.grad = None if kind in ("missing", "frozen") else grad * (kind != "zero")
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.9

    def _freeze(self) -> None:
        for param, kind in zip(self.params, self.case.gradients[self.step], strict=True):
            param.requires_grad_(kind != "frozen")

    def _options(self, index: int) -> dict[str, Any]:
        group, params = self.case.groups[index], self.groups[index]
        options = dict(group.options)
        if group.tensor_lr:
            options["lr"] = torch.tensor(options["lr"])
        named = [(f"{index}.{i}", param) for i, param in enumerate(params)]
        return {**options, "params": named if self.case.named else params}


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """What two tensors have in common if and only if they are equal to the bit."""
    flat = tensor.detach().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def _draw(generator: torch.Generator, shape: tuple[int, ...], dtype: str, reversed_strides: bool) -> Tensor:
    if not reversed_strides:
        return torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    axes = tuple(reversed(range(len(shape))))
    return torch.randn(shape[::-1], generator=generator).to(getattr(torch, dtype)).permute(axes)


def _continue(path: Path) -> None:
    run = Run.load(path)
    run.advance(run.case.steps)
    torch.save(run.result(), path)


def serve() -> None:
    """Continue each run whose path is read to its end, in a new process each, and leave its result there.

    The processes are forks of this one, which has imported torch and done nothing else.
    """
    for line in sys.stdin:
        process = get_context("fork").Process(target=_continue, args=(Path(line.rstrip("\n")),))
        process.start()
        process.join()
        print(process.exitcode, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve()

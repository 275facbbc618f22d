"""How far the backends of the rule stray from its definition over a long run.

One model with parameters of ranks 0 to 5 (convolutions in two and three dimensions, an embedding, a block of
attention, a temperature) is trained by Adam. Every backend is given its gradients as they come, and so is the
eager rule in float64; nobody's directions touch the model, so that the errors are of the step alone.
The error of a tensor is the norm of the difference of two directions over the norm of the exact one. Prints a
table of the largest over all tensors; the last line is one JSON object.

    python benchmarks/drift.py --steps 2000 --out results/drift
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learned_opt import LearnedOptimizer
from tasks.files import atomic_write_text, writable_folder

SIZE, CLASSES, WIDTH, BATCH = 12, 10, 24, 32


@dataclass(frozen=True)
class Options:
    """Drift of the backends over one stream of gradients.

    Args:
        rule: A learned optimizer, by name or folder.
        backends: Who is compared with the eager rule in float64.
        dtypes: Of the state, by name.
        steps: Length of the stream.
        checkpoints: How often the errors are taken.
        out: Folder for ``drift.json``; none if empty.
    """

    rule: str = "flt-base"
    backends: tuple[str, ...] = ("eager", "compiled", "native")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    steps: int = 2000
    checkpoints: int = 20
    out: str = ""


class Mixed(nn.Module):
    """Classifies small clips by a token a frame; its parameters have ranks 0 to 5."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.volume = nn.Conv3d(1, 3, (2, 3, 3), padding=(0, 1, 1))
        self.picture = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.position = nn.Parameter(0.02 * torch.randn(1, 3, WIDTH))
        self.word = nn.Embedding(50, WIDTH)
        self.project = nn.Linear(5 * (SIZE // 2) ** 2, WIDTH)
        self.block = Block(WIDTH, 2)
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, clip: Tensor, words: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of clips ``[B, 1, 3, size, size]`` with a word each, ``[B]``."""
        frames = self.volume(clip).transpose(1, 2)
        pictures = self.picture(frames.flatten(0, 1)).relu().flatten(1)
        tokens = self.project(pictures).unflatten(0, frames.shape[:2])
        tokens = torch.cat([self.word(words)[:, None], tokens], dim=1) + self.position
        scores: Tensor = self.classify(self.block(tokens).mean(1)) / self.temperature
        return scores


class Stream:
    """The gradients of a model that Adam trains to tell noisy patterns apart.

    Attributes:
        initial: Its first parameters.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.patterns = torch.randn(CLASSES, 1, 3, SIZE, SIZE)
        self.model = Mixed()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.initial = [param.detach().clone() for param in self.model.parameters()]

    def next(self) -> list[Tensor]:
        """Gradients of one more step, of which most rows of the embedding have none."""
        labels = torch.randint(CLASSES, (BATCH,))
        clips = self.patterns[labels] + 2 * torch.randn(BATCH, *self.patterns.shape[1:])
        words = (5 * labels + torch.randint(5, (BATCH,))).clamp(max=40)
        self.optimizer.zero_grad()
        cross_entropy(self.model(clips, words), labels).backward()
        self.optimizer.step()
        return [param.grad.detach().clone() for param in self.model.parameters() if param.grad is not None]


class Runner:
    """An optimizer whose parameters are put back after every step, of which the direction is taken.

    Args:
        rule: Name or folder of a learned optimizer.
        params: The parameters.
        options: Of `LearnedOptimizer`.
    """

    def __init__(self, rule: str, params: Sequence[Tensor], **options: Any) -> None:
        self.initial, self.params = params, [nn.Parameter(param.clone()) for param in params]
        self.optimizer = LearnedOptimizer.from_pretrained(rule, self.params, lr=1.0, **options)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The directions that it gives."""
        for param, initial, grad in zip(self.params, self.initial, grads, strict=True):
            param.copy_(initial)
            param.grad = grad.to(param.dtype)
        self.optimizer.step()
        return [initial - param for param, initial in zip(self.params, self.initial, strict=True)]


def largest_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest relative error of a tensor's direction."""
    return max(
        float((each.double() - exact).norm() / exact.norm())
        for each, exact in zip(found, wanted, strict=True)
        if exact.norm() > 0
    )


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    folder = writable_folder(options.out) if options.out else None
    stream = Stream()
    reference = Runner(options.rule, [param.double() for param in stream.initial], backend="eager")
    runners = {
        (backend, dtype): Runner(
            options.rule, stream.initial, backend=backend, state_dtype=getattr(torch, dtype)
        )
        for backend in options.backends
        for dtype in options.dtypes
    }
    every = max(1, options.steps // options.checkpoints)
    errors: dict[str, list[float]] = {" ".join(key): [] for key in runners}
    for step in range(1, options.steps + 1):
        grads = stream.next()
        wanted = reference.step(grads)
        for key, runner in runners.items():
            found = runner.step(grads)
            if step % every == 0:
                errors[" ".join(key)].append(largest_error(found, wanted))
    table = Table("backend, state", f"at step {every}", f"at step {options.steps}", "largest")
    for name, values in errors.items():
        table.add_row(name, f"{values[0]:.1e}", f"{values[-1]:.1e}", f"{max(values):.1e}")
    Console().print(table)
    shapes = [list(param.shape) for param in stream.initial]
    record = {
        "rule": options.rule,
        "steps": options.steps,
        "every": every,
        "shapes": shapes,
        "errors": errors,
    }
    if folder:
        atomic_write_text(folder / "drift.json", json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()

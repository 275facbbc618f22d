"""How far the backends of the rule stray from its definition over a long run.

One model with parameters of ranks 0 to 5 (convolutions in two and three dimensions, an embedding, a block of
attention, a temperature) is trained by Adam. Every backend is given its gradients as they come, and so is the
rule in float64, arithmetic and state; nobody's directions touch the model, so that the errors are of the step
alone. Beside the backends stands ``exact``, the same in float64 but with a state that is rounded after every
step: what nothing that keeps such a state can avoid.

The error of a tensor is the norm of the difference of two directions over the norm of the exact one. That of
a tensor of one element has no bound, since its direction goes through zero whenever it turns. Prints a table
of the largest over all tensors and over those of more elements; the last line is one JSON object.

    python benchmarks/drift.py --out results/drift
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learned_opt import LearnedOptimizer
from learned_opt.functional import shaped
from learned_opt.layout import Layout
from learned_opt.rounding import round_to_bfloat16
from tasks.files import atomic_write_text, writable_folder

SIZE, CLASSES, WIDTH, BATCH = 12, 10, 24, 32
LR = 2.0**20
"""A power of two that makes every step large beside its parameter, which then says what the direction was."""


@dataclass(frozen=True)
class Options:
    """Drift of the backends over one stream of gradients.

    Args:
        rule: A learned optimizer, by name or folder.
        backends: Who is compared with the rule in float64; ``exact`` is that itself with its state rounded.
        dtypes: Of the state, by name.
        steps: Length of the stream.
        checkpoints: How often the errors are taken.
        orthogonalize: Whether directions of matrices are made orthogonal; by default as the rule says.
        out: Folder for ``drift.json``; none if empty.
    """

    rule: str = "flt-base"
    backends: tuple[str, ...] = ("exact", "eager", "compiled", "native")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    steps: int = 2000
    checkpoints: int = 100
    orthogonalize: bool | None = None
    out: str = ""

    @property
    def every(self) -> int:
        """Steps from one checkpoint to the next."""
        return max(1, self.steps // self.checkpoints)


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
        self.optimizer = LearnedOptimizer.from_pretrained(rule, self.params, lr=LR, **options)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The directions that it gives."""
        for param, initial, grad in zip(self.params, self.initial, grads, strict=True):
            param.copy_(initial)
            param.grad = grad.to(param.dtype)
        self.optimizer.step()
        return [(initial - param) / LR for param, initial in zip(self.params, self.initial, strict=True)]


class Exact:
    """The rule itself in float64, with that state or one that is rounded after every step.

    Args:
        rule: Name or folder of a learned optimizer.
        params: The parameters.
        state_dtype: What the state is rounded to.
        options: Of `LearnedOptimizer`.
    """

    def __init__(
        self, rule: str, params: Sequence[Tensor], *, state_dtype: torch.dtype = torch.float64, **options: Any
    ) -> None:
        optimizer = Runner(rule, params, backend="eager", **options).optimizer
        self.rule, self.orthogonalize = optimizer.rule, optimizer.param_groups[0]["orthogonalize"]
        self.meta = {name: tensor.double() for name, tensor in optimizer.meta.items()}
        self.params, self.dtype = [param.double() for param in params], state_dtype
        self.state = self.rule.init_state(self.params, dtype=torch.float64)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The directions that it gives."""
        exact = [grad.double() for grad in grads]
        directions, self.state = self.rule.update(self.meta, self.state, exact, self.params)
        if self.dtype != torch.float64:
            self.state = {name: held.float().double() for name, held in self.state.items()}
        if self.dtype == torch.bfloat16:
            layout = Layout.of(self.params)
            rounded = round_to_bfloat16(self.state["memory"].float(), self.state["step"], layout)
            self.state["memory"] = rounded.double()
        return shaped(self.rule, self.meta, directions, self.state, orthogonal=self.orthogonalize)


def errors_of(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """The relative error of each tensor's direction, to three digits; of one that does not move, 0."""
    pairs = zip(found, wanted, strict=True)
    norms = [(float((each.double() - exact).norm()), float(exact.norm())) for each, exact in pairs]
    return [float(f"{error / size:.3g}") if size > 0 else 0.0 for error, size in norms]


def measure(options: Options, stream: Stream) -> dict[str, list[list[float]]]:
    """Errors of every backend and dtype, at every checkpoint, of every tensor."""
    chosen: dict[str, Any] = {} if options.orthogonalize is None else {"orthogonalize": options.orthogonalize}
    reference = Exact(options.rule, stream.initial, **chosen)
    runners: dict[str, Exact | Runner] = {}
    for backend in options.backends:
        for name in options.dtypes:
            dtype: dict[str, Any] = {"state_dtype": getattr(torch, name)}
            runners[f"{backend} {name}"] = (
                Exact(options.rule, stream.initial, **dtype, **chosen)
                if backend == "exact"
                else Runner(options.rule, stream.initial, backend=backend, **dtype, **chosen)
            )
    errors: dict[str, list[list[float]]] = {key: [] for key in runners}
    for step in range(1, options.steps + 1):
        grads = stream.next()
        wanted = reference.step(grads)
        for key, runner in runners.items():
            found = runner.step(grads)
            if step % options.every == 0:
                errors[key].append(errors_of(found, wanted))
    return errors


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    folder = writable_folder(options.out) if options.out else None
    stream = Stream()
    shapes = [list(param.shape) for param in stream.initial]
    larger = [index for index, param in enumerate(stream.initial) if param.numel() > 1]
    errors = measure(options, stream)
    largest = {key: [max(each) for each in rows] for key, rows in errors.items()}
    apart = {key: [max(each[i] for i in larger) for each in rows] for key, rows in errors.items()}
    table = Table("backend, state", "median", "largest", "of more than one element: median", "largest")
    for key in errors:
        cells = [f"{take(each[key]):.1e}" for each in (largest, apart) for take in (median, max)]
        table.add_row(key, *cells)
    Console().print(table)
    record = {
        "rule": options.rule,
        "orthogonalize": options.orthogonalize,
        "steps": options.steps,
        "every": options.every,
        "shapes": shapes,
        "errors": largest,
        "errors_of_more_than_one_element": apart,
        "worst_tensor": {key: [each.index(max(each)) for each in rows] for key, rows in errors.items()},
    }
    if folder:
        atomic_write_text(folder / "drift.json", json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()

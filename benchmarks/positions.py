"""Whether positions pay: FLT against Performer without positions against exact softmax with positions.

Three small real tasks: handwritten digits of 8 x 8 by a Vision Transformer of 2 x 2 patches; the
next character of English text by a causal model; and a smooth random field in space, to be recovered from
noisy values at scattered points. No model has absolute positions. All are trained alike by AdamW on the same
batches, position functions at ten times the rate of the rest; only they, under 2 % of the parameters, are
missing in Performer. Every run is a file in the results, so that an interrupted benchmark goes on where it
stopped.

The share of the gap is (Performer - FLT) / (Performer - exact) of the means over seeds, with the 95 %
interval of a bootstrap over the seeds, paired. Prints a table; the last line is one JSON object.

    python benchmarks/positions.py --out results/positions
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from kernattn.modules import CausalLanguageModel, PointSetModel, switch_attention
from tasks.datasets import load_dataset
from tasks.files import atomic_write_text
from tasks.texts import TextData

METHODS = ("performer", "flt", "softmax")
NAMES = {"performer": "Performer", "flt": "FLT", "softmax": "exact softmax"}
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Options:
    """Share of the gap between Performer and exact attention that FLT recovers.

    Args:
        tasks: Of images, text and points.
        methods: Of performer, flt and softmax.
        seeds: Runs of each method on each task.
        images_steps: Training steps on images.
        text_steps: Training steps on text.
        points_steps: Training steps on points.
        lr: Largest learning rate of the cosine schedule, the same for all.
        features: Random features of Performer and FLT.
        samples: Fourier samples of FLT.
        limit: Bound of FLT's amplitude a head.
        out: Folder of the runs.
    """

    tasks: tuple[str, ...] = ("images", "text", "points")
    methods: tuple[str, ...] = METHODS
    seeds: int = 5
    images_steps: int = 200
    text_steps: int = 150
    points_steps: int = 150
    lr: float = 3e-3
    features: int = 64
    samples: int = 32
    limit: float = 2.0
    out: Path = Path("results/positions")

    def method_options(self, method: str) -> dict:
        """Options of a method's layers."""
        if method == "performer":
            return {"features": self.features}
        if method == "flt":
            return {"features": self.features, "samples": self.samples, "limit": self.limit}
        return {}


class Images:
    """Digits: 16 patches, their average; the measure is the validation error."""

    measure = "validation error"

    def __init__(self) -> None:
        self.data = load_dataset("digits")
        self.validation = list(self.data.chunks("validation", 1000))

    def model(self, method: str, options: dict) -> nn.Module:
        """A Vision Transformer, its attention switched."""
        model = timm.models.VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            num_classes=10,
            embed_dim=64,
            depth=2,
            num_heads=4,
            mlp_ratio=2,
            pos_embed="none",
            class_token=False,
            global_pool="avg",
        )
        return switch_attention(model, method, **options)

    def batch(self, generator: torch.Generator) -> Batch:
        """Images and labels."""
        return self.data.draw(generator, (64,), "train")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy."""
        return functional.cross_entropy(model(batch[0]), batch[1])

    def score(self, model: nn.Module) -> float:
        """Share of validation images that are taken for something else."""
        wrong = torch.cat([model(x).argmax(dim=-1) != y for x, y in self.validation])
        return float(wrong.float().mean())


class Text:
    """Characters of Python's language reference; the measure is the validation bits a character."""

    measure = "bits per character"

    def __init__(self) -> None:
        self.data = TextData("topics", 64)
        generator = torch.Generator().manual_seed(0)
        self.validation = [self.data.draw(generator, (64,), "validation") for _ in range(6)]

    def model(self, method: str, options: dict) -> nn.Module:
        """A causal model of two blocks."""
        return CausalLanguageModel(
            self.data.classes, dim=64, depth=2, num_heads=4, extent=32.0, method=method, **options
        )

    def batch(self, generator: torch.Generator) -> Batch:
        """Windows and the characters after them."""
        return self.data.draw(generator, (16,), "train")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy, in nats."""
        return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def score(self, model: nn.Module) -> float:
        """Bits a character."""
        return float(torch.stack([self.loss(model, batch) for batch in self.validation]).mean()) / math.log(2)


class Points:
    """A field of correlation length 0.25 in the unit cube, from values with noise of the field's own size.

    What near points say matters, and only the distance tells which are near. The measure is the mean square
    error relative to the field's variance.
    """

    measure = "relative squared error"
    COUNT, LENGTH, WAVES = 32, 0.25, 64

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.validation = [self._draw(generator, 64) for _ in range(8)]

    def _draw(self, generator: torch.Generator, count: int) -> Batch:
        position = torch.rand(count, self.COUNT, 3, generator=generator)
        wave = torch.randn(count, 3, self.WAVES, generator=generator) / self.LENGTH
        turn = 2 * math.pi * torch.rand(count, 1, self.WAVES, generator=generator)
        field = math.sqrt(2 / self.WAVES) * torch.cos(position @ wave + turn).sum(dim=-1)
        value = field + torch.randn(field.shape, generator=generator)
        return value[..., None], position, field

    def model(self, method: str, options: dict) -> nn.Module:
        """A model of two blocks whose position functions depend on the distance alone."""
        if method != "performer":
            options = {**options, "isotropic": True, "components": 4}
        return PointSetModel(1, 1, dim=32, depth=2, num_heads=4, extent=0.5, method=method, **options)

    def batch(self, generator: torch.Generator) -> Batch:
        """Values, positions and the field."""
        return self._draw(generator, 16)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean square error."""
        return (model(batch[0], batch[1]).squeeze(-1) - batch[2]).square().mean()

    def score(self, model: nn.Module) -> float:
        """Mean square error on the validation fields, whose variance is 1."""
        return float(torch.stack([self.loss(model, batch) for batch in self.validation]).mean())


TASKS: dict[str, Callable[[], Images | Text | Points]] = {"images": Images, "text": Text, "points": Points}


def groups(model: nn.Module, lr: float) -> list[dict]:
    """Position functions learn ten times as fast, without weight decay: they start near 0."""
    place = [p for name, p in model.named_parameters() if ".position." in name or ".decay." in name]
    chosen = {id(p) for p in place}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": rest}, {"params": place, "lr": 10 * lr, "weight_decay": 0.0}]


def train(task: Images | Text | Points, name: str, method: str, seed: int, options: Options) -> dict:
    """One run, on the same batches for every method."""
    torch.manual_seed(seed)
    model = task.model(method, options.method_options(method))
    steps = getattr(options, f"{name}_steps")
    optimizer = torch.optim.AdamW(groups(model, options.lr), lr=options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min((t + 1) / (0.05 * steps), 0.5 * (1 + math.cos(math.pi * t / steps))),
    )
    generator = torch.Generator().manual_seed(seed)
    begin, curve = time.perf_counter(), []
    for _ in range(steps):
        loss = task.loss(model, task.batch(generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append(float(loss.detach()))
    model.eval()
    with torch.no_grad():
        score = task.score(model)
    return {
        "task": name,
        "method": method,
        "seed": seed,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "measure": task.measure,
        "score": score,
        "training_loss": float(np.mean(curve[-20:])),
        "seconds": time.perf_counter() - begin,
    }


def run(name: str, method: str, seed: int, options: Options, tasks: dict) -> dict:
    """A run, from its file if it is there and was made alike."""
    path = options.out / f"{name}-{method}-{seed}.json"
    made = {key: str(value) for key, value in asdict(options).items() if key not in ("out", "seeds", "tasks")}
    del made["methods"]
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["options"] == made:
            return stored
    if name not in tasks:
        tasks[name] = TASKS[name]()
    result = {**train(tasks[name], name, method, seed, options), "options": made}
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(result, indent=1) + "\n")
    return result


def share(scores: dict[str, np.ndarray], seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """Share of the gap between Performer and exact attention that FLT recovers, and its interval."""
    table = np.stack([scores[method] for method in METHODS])
    index = np.random.default_rng(seed).integers(table.shape[1], size=(draws, table.shape[1]))
    performer, flt, exact = table[:, index].mean(axis=-1)
    shares = (performer - flt) / (performer - exact)
    means = table.mean(axis=-1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float((means[0] - means[1]) / (means[0] - means[2])), float(low), float(high)


def summarise(runs: list[dict], options: Options) -> list[dict]:
    """One row a task."""
    rows = []
    for name in options.tasks:
        of_task = [run for run in runs if run["task"] == name]
        scores = {m: np.array([r["score"] for r in of_task if r["method"] == m]) for m in options.methods}
        row: dict = {"task": name, "measure": of_task[0]["measure"], "steps": of_task[0]["steps"]}
        for method in options.methods:
            parameters = next(r["parameters"] for r in of_task if r["method"] == method)
            row[method] = {
                "mean": float(scores[method].mean()),
                "deviation": float(scores[method].std(ddof=1)) if options.seeds > 1 else 0.0,
                "parameters": parameters,
            }
        if set(options.methods) == set(METHODS):
            row["share"], row["low"], row["high"] = share(scores)
        rows.append(row)
    return rows


def show(rows: list[dict], options: Options, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"mean ± deviation over {options.seeds} seeds; less is better")
    for column in ("task", "measure", *(NAMES[m] for m in options.methods), "share of the gap"):
        table.add_column(column)
    for row in rows:
        cells = [
            f"{row[m]['mean']:.4f} ± {row[m]['deviation']:.4f} ({row[m]['parameters']:,})"
            for m in options.methods
        ]
        gap = f"{row['share']:.0%} [{row['low']:.0%}, {row['high']:.0%}]" if "share" in row else ""
        table.add_row(row["task"], row["measure"], *cells, gap)
    console.print(table)


def main() -> None:
    """Run what is missing, print the table and one JSON object."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    tasks: dict = {}
    runs = [
        run(name, method, seed, options, tasks)
        for seed in range(options.seeds)
        for name in options.tasks
        for method in options.methods
    ]
    rows = summarise(runs, options)
    show(rows, options, Console(width=150))
    summary = {"seeds": options.seeds, "lr": options.lr, "tasks": rows}
    atomic_write_text(options.out / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()

"""``learned-opt inspect``: what a saved optimizer is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from learned_opt import Checkpoint, UpdateRule
from meta_train.commands import parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, duration, say, shown
from meta_train.entries import fingerprint, load_learned
from meta_train.masks import mask_plot, time_scales
from tasks.benchmark.report.plots import png
from tasks.files import atomic_write_bytes, writable_folder


@dataclass(frozen=True)
class InspectCommand:
    """Show what a saved optimizer is: sizes, its meta-training, and what it remembers of past gradients.

    Args:
        optimizer: flt, flt-small or flt-rastrigin, which ship, or the folder of a saved one.
        out: Folder for the plot of the temporal masks; by default runs/inspect/ and the optimizer's name.
        device: Where to load it, cpu or cuda.
        seed: Accepted as everywhere; nothing is drawn at random.
    """

    optimizer: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME_OR_FOLDER")] = "flt"
    out: Path | None = None
    device: str = "cpu"
    seed: int = 0


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(InspectCommand, "inspect", options)
    require_device(command.device)
    checkpoint = load_learned(command.optimizer)
    name = Path(command.optimizer).resolve().name
    console.print(_facts_table(name, checkpoint))
    console.print(_memory_table(checkpoint))
    plot = writable_folder(command.out or Path("runs/inspect") / name) / "masks.png"
    atomic_write_bytes(plot, png(mask_plot(checkpoint, f"What {name} remembers".replace("$", r"\$"))))
    say(f"Temporal masks: {shown(plot)}")


def _facts_table(name: str, checkpoint: Checkpoint) -> Table:
    table = Table(title=escape(name), title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for fact, value in _facts(checkpoint):
        table.add_row(fact, escape(value))
    return table


def _facts(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    config, facts = checkpoint.config, checkpoint.facts
    tensors = checkpoint.meta.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    yield "meta-parameters", f"{sum(tensor.numel() for tensor in tensors):,} ({size:,} bytes)"
    yield "state", f"{UpdateRule(config).floats_per_parameter} floats a parameter (Adam has 2)"
    yield "memory", type(config.memory).__name__.removesuffix("Config")
    yield "head", f"{config.directions} directions, {config.hidden} hidden units, scale {config.scale}"
    yield "fingerprint", fingerprint(checkpoint)[:16]
    training = facts.get("meta_training")
    if not isinstance(training, dict):
        yield "meta-training", "nothing was recorded"
        return
    yield "trained on", _listed(training.get("families"))
    yield "validated on", _listed(training.get("validation"))
    yield "meta-training", _length(facts, training)
    score = facts.get("validation_score")
    if isinstance(score, float):
        yield "validation score", f"{score:+.3f} (log-ratio of final loss to tuned Adam's; below 0 is better)"


def _length(facts: dict[str, Any], training: dict[str, Any]) -> str:
    done, planned = _number(facts.get("outer_steps")), _number(training.get("outer_steps"))
    parts = [f"{done} of {planned} outer steps"]
    if "inner_steps" in facts:
        parts.append(f"{_number(facts['inner_steps'])} inner steps")
    if isinstance(facts.get("seconds"), int | float):
        parts.append(duration(facts["seconds"]))
    return ", ".join([*parts, f"seed {training.get('seed')}"])


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "-"


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else "-"


def _memory_table(checkpoint: Checkpoint) -> Table:
    table = Table(title="memory of past gradients", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    table.add_column("component")
    for title in ("half-life, steps", "at the start", "period, steps"):
        table.add_column(title, justify="right")
    for scale in time_scales(checkpoint):
        period = f"{1 / scale.frequency:.1f}" if scale.frequency else ""
        table.add_row(scale.name, f"{scale.half_life:.1f}", f"{scale.initial:.1f}", period)
    return table

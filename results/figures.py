"""Write what README shows of the suite `core`: `make figures`.

Reads `results/core/results.json.gz`; writes `docs/images/core.png` and, in README.md, whatever stands between
the marks `<!-- core: NAME -->` and `<!-- /core -->`.
"""

import math
import re
from pathlib import Path

from matplotlib.figure import Figure

from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.summary import Choice
from tasks.benchmark.report.palette import GRID, MUTED, SERIES
from tasks.benchmark.report.plots import legend_below, new_figure, png
from tasks.benchmark.saved import SavedResults, load_results
from tasks.files import atomic_write_bytes, atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
README, CORE, PICTURE = ROOT / "README.md", ROOT / "results/core", ROOT / "docs/images/core.png"
OURS = "flt"
LIMITS = (0.06, 5.0)
MARKS: tuple[tuple[Choice, float, str], ...] = (("tuned", -0.3, SERIES[0]), ("default", -0.06, "none"))
SHAPES = ("^", "s", "D", "v", "P", "X", "*")
"""Of the others, who take the palette's further colours in turn."""
MARK = re.compile(r"(<!-- core: (\w+) -->).*?(<!-- /core -->)", re.DOTALL)


def main() -> None:
    """Write the picture and the text."""
    results = load_results(CORE)
    atomic_write_bytes(PICTURE, png(picture(results)))
    atomic_write_text(README, updated(README.read_text(encoding="utf-8"), results))


def updated(text: str, results: SavedResults) -> str:
    """The text with its marked parts renewed."""
    parts = {"tasks": task_table(results), "all": aggregate_table(results)}
    return MARK.sub(lambda found: f"{found[1]}\n{parts[found[2]]}\n{found[3]}", text)


def task_table(results: SavedResults) -> str:
    """A row for each task: final losses and speed-ups."""
    lines = [
        "| task, never meta-trained on | Adam or AdamW, tuned | best of the others, tuned | "
        "FLT, tuned | at its default | speed-up, tuned | at the default |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in results.tasks.values():
        best = min(_final(results, task.name, name, "tuned") for name in results.settings["references"])
        rest = {name: _final(results, task.name, name, "tuned") for name in _others(results)}
        other = min(rest, key=lambda name: rest[name])
        losses = [_final(results, task.name, OURS, choice) for choice, *_ in MARKS]
        shown = [f"**{loss:.3g}**" if loss < min(best, rest[other]) else f"{loss:.3g}" for loss in losses]
        cells = [f"`{task.name}`: {_short(task.description)}", f"{best:.3g}"]
        cells += [f"{rest[other]:.3g} ({results.optimizers[other]['label']})", *shown]
        cells += [_times(results.summaries[task.name, OURS, choice].speedup) for choice, *_ in MARKS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def aggregate_table(results: SavedResults) -> str:
    """A row for each optimizer over all tasks, the fastest first."""
    lines = [
        "| optimizer | speed-up over the best of Adam and AdamW | probability of improvement | "
        "settings that diverged |",
        "|---|---|---|---|",
    ]
    ranked = sorted(results.headlines, key=lambda one: -(one.speedup.value if one.speedup else 0.0))
    for one in ranked:
        label = results.optimizers[one.optimizer]["label"]
        at = "tuned" if one.choice == "tuned" else "at its default rate"
        runs = [results.summaries[task, one.optimizer, one.choice].diverged for task in results.tasks]
        improvement = f"{one.improvement.value:.0%}" if one.improvement else "–"
        name = f"**{label}**" if one.optimizer == OURS else label
        diverged = f"{sum(runs) / len(runs):.0%}"
        lines.append(f"| {name}, {at} | {_times(one.speedup)} | {improvement} | {diverged} |")
    return "\n".join(lines)


def picture(results: SavedResults) -> Figure:
    """Speed-ups by task: ours tuned and at its default, and all others."""
    names = list(results.tasks)
    figure, axes = new_figure("Speed-up over the best of Adam and AdamW", width=9.4, height=4.8)
    others = _others(results)
    looks = [(SERIES[1 + k % (len(SERIES) - 1)], SHAPES[k % len(SHAPES)]) for k in range(len(others))]
    for row, task in enumerate(names):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=0)
        for name, (color, shape) in zip(others, looks, strict=True):
            if (found := results.summaries[task, name, "tuned"].speedup) is not None:
                axes.plot(_held(found.value), row + 0.26, shape, color=color, markersize=5)
        for choice, height, fill in MARKS:
            speedup = results.summaries[task, OURS, choice].speedup
            if speedup is None:
                continue
            ends = [_held(end) for end in (speedup.low, speedup.high) if end is not None]
            heights = [row + height] * len(ends)
            axes.plot(ends, heights, color=SERIES[0], linewidth=1.6)
            axes.plot(_held(speedup.value), row + height, "o", color=SERIES[0], markerfacecolor=fill)
    axes.axvline(1, color=MUTED, linewidth=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(*LIMITS)
    ticks = (0.1, 0.2, 0.5, 1, 2, 5)
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.plot([], [], "o", color=SERIES[0], label="FLT, tuned")
    axes.plot([], [], "o", color=SERIES[0], markerfacecolor="none", label="FLT, at its default")
    for name, (color, shape) in zip(others, looks, strict=True):
        axes.plot(
            [], [], shape, color=color, markersize=5, label=f"{results.optimizers[name]['label']}, tuned"
        )
    legend_below(axes, columns=4)
    return figure


def _others(results: SavedResults) -> list[str]:
    """Optimizers that are neither ours nor references."""
    return [
        name
        for name, facts in results.optimizers.items()
        if facts["kind"] != "learned" and name not in results.settings["references"]
    ]


def _final(results: SavedResults, task: str, optimizer: str, choice: Choice) -> float:
    found = results.summaries[task, optimizer, choice].final_loss
    return found.value if found else math.inf


def _held(value: float) -> float:
    return min(max(value, LIMITS[0]), LIMITS[1])


def _times(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.value:.2f}× [{interval.low:.2f}–{interval.high:.2f}]"


def _short(description: str) -> str:
    """What kind of task it is: the description without its batch size and activations."""
    return re.sub(r", (open-l2o form|batch \d+|relu|gelu|penalty [\d.]+)", "", description)


if __name__ == "__main__":
    main()

"""Collect the evidence of a meta-training run: `python results/collect.py runs/small results/flt-base`.

Writes a thinned log and a picture of the meta-validation against tuned Adam.
"""

import json
import sys
from pathlib import Path
from typing import Any

from meta_train.log import LOG_NAME, read_log
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import legend_below, new_figure, png
from tasks.files import atomic_write_bytes, atomic_write_text

EVERY = 50


def main(run: Path, out: Path) -> None:
    """Read the run's folder and write into another."""
    records = read_log(run)
    last = len(records) - 1
    kept = [
        record
        for index, record in enumerate(records)
        if record["step"] % EVERY == 0 or "validation" in record or index == last
    ]
    lines = [json.dumps({name: _short(value) for name, value in record.items()}) for record in kept]
    atomic_write_text(out / LOG_NAME, "\n".join(lines) + "\n")
    atomic_write_bytes(out / "meta-validation.png", png(_figure(records)))
    final = records[-1]
    print(f"{final['step']} outer steps, {final['inner_steps']} inner steps, {final['seconds']:.0f} s")


def _figure(records: list[dict[str, Any]]) -> Any:
    points = [record for record in records if "validation" in record]
    names = [name for name in points[0] if name.startswith("validation/") and not name.endswith("/adam")]
    figure, axes = new_figure("Final meta-loss on held-out tasks, each tuned", width=6.4)
    minutes = [record["seconds"] / 60 for record in points]
    for name, colour in zip(names, SERIES, strict=False):
        label = name.removeprefix("validation/")
        axes.semilogy(minutes, [record[name] for record in points], color=colour, label=label)
        axes.axhline(points[0][f"{name}/adam"], color=colour, linestyle=":", label=f"{label}, Adam")
    best = min(points, key=lambda record: record["validation"])
    axes.axvline(best["seconds"] / 60, color=REFERENCE, linestyle="--", label="best of all together")
    axes.set_xlabel("minutes of meta-training")
    axes.set_ylabel("meta-loss")
    legend_below(axes)
    return figure


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

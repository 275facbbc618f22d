"""The theorems about Fourier features of positions, measured: bias, variance, uniform error and amplitude.

The position functions are mixtures of Gaussians (of positive weights; of both signs and with an odd part;
under a fixed Gaussian proposal; stratified) and the local triangle (under its own Fejer density; under a
Cauchy), each with ``|g|_1`` of about 1. Four questions:

- Is ``N = (1/r) Re sum_s rho_s exp(2 pi i xi_s z)`` unbiased, does its error fall as ``r^-1/2``, and how far
  is ``exp(N)`` from ``exp(f)``?
- Is its variance ``(E|rho|^2 / 2 + Re E[rho^2 exp(4 pi i xi z)] / 2 - f^2) / r``?
- How large is its largest error over all lags of a sequence, against r and the length, beside the bound
  ``C sqrt(2 log(2 L^2 / delta) / r)`` of Hoeffding and a union over pairs?
- Is the relative standard deviation of m positive features at lag 0 ``sqrt((exp(4 G) - 1) / m)``?

Prints tables, draws plots; the last line is one JSON object. Fails where a measurement leaves the theory.

    python benchmarks/theory.py --out results/theory --plots docs/images
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.position_estimates import COUNTS, SYSTEMS, Findings, measure, slope  # noqa: E402
from benchmarks.theory_plots import amplitude_plot, mask_plot, uniform_plot  # noqa: E402
from tasks.benchmark.report.plots import png  # noqa: E402
from tasks.files import atomic_write_bytes, atomic_write_text, writable_folder  # noqa: E402

SMALL = 0.01  # variances of a sample that count as none


@dataclass(frozen=True)
class Options:
    """Draws and files.

    Args:
        draws: Independent draws of all frequencies for each figure.
        seed: Of all draws.
        out: Folder for the JSON object.
        plots: Folder for the plots.
    """

    draws: int = 4000
    seed: int = 0
    out: Path | None = None
    plots: Path | None = None


def summarise(findings: Findings, seconds: float) -> dict[str, Any]:
    """The figures to quote."""
    by_system = {s.name: [row for row in findings.errors if row.system == s.name] for s in SYSTEMS}
    ratios = [row.measured / row.predicted for row in findings.variances if (row.predicted or 0) > SMALL]
    return {
        "largest_deviation": round(max(row.deviation for row in findings.errors), 2),
        "slopes": {name: round(slope(rows), 3) for name, rows in by_system.items()},
        "variance_over_predicted": [round(min(ratios), 3), round(max(ratios), 3)],
        "largest_quantile_over_bound": round(max(r.quantile / r.bound for r in findings.uniform), 3),
        "exponential_bias": {str(row.count): round(row.exponential_bias, 4) for row in by_system["mixture"]},
        "amplitude_over_law": {
            f"G={row.amplitude:g}, m={row.features}": round(row.measured / row.predicted, 3)
            for row in findings.amplitudes
        },
        "seconds": round(seconds, 1),
    }


def violations(findings: Findings) -> list[str]:
    """Where the measurements leave the theory."""
    found = [
        f"{row.system}, r = {row.count}: {row.deviation:.1f} standard errors from f"
        for row in findings.errors
        if row.deviation > 4.5
    ]
    for system in SYSTEMS:
        falling = slope([row for row in findings.errors if row.system == system.name])
        if abs(falling + 0.5) > 0.03 and system.nodes is not None:
            found.append(f"{system.name}: the error falls with slope {falling:.3f}")
    found += [
        f"{row.system}, lag {row.lag}: variance {row.measured:.3g}, predicted {row.predicted:.3g}"
        for row in findings.variances
        if row.predicted is not None and abs(row.measured - row.predicted) > 0.06 * row.predicted + SMALL
    ]
    found += [
        f"{row.system}, r = {row.count}, L = {row.length}: {row.quantile:.3g} is above {row.bound:.3g}"
        for row in findings.uniform
        if row.quantile > row.bound
    ]
    found += [
        f"G = {row.amplitude}, m = {row.features}: noise {row.measured:.3g}, predicted {row.predicted:.3g}"
        for row in findings.amplitudes
        if row.amplitude <= 0.5 and abs(row.measured / row.predicted - 1) > 0.05
    ]
    return found


def show(findings: Findings, console: Console) -> None:
    """Print the tables."""
    table = Table("position function", title="root mean square error of N (predicted)")
    bias = Table("position function", title="E exp(N) / exp(f) - 1 (predicted)")
    for count in COUNTS:
        table.add_column(f"r = {count}", justify="right")
        bias.add_column(f"r = {count}", justify="right")
    for system in SYSTEMS:
        rows = [row for row in findings.errors if row.system == system.name]
        table.add_row(system.name, *(_beside(row.error, row.predicted, "{:.4f}") for row in rows))
        bias.add_row(
            system.name,
            *(_beside(row.exponential_bias, row.exponential_predicted, "{:.2%}") for row in rows),
        )
    console.print(table)
    console.print(bias)
    table = Table("position function", "r", "L", "mean", "95 %", "bound", title="largest error over all lags")
    for row in findings.uniform:
        figures = (f"{x:.3f}" for x in (row.mean, row.quantile, row.bound))
        table.add_row(row.system, str(row.count), str(row.length), *figures)
    console.print(table)
    table = Table("G", "m", "independent", "orthogonal", "law", title="noise of positive features at lag 0")
    for each in findings.amplitudes:
        figures = (f"{x:.3f}" for x in (each.measured, each.orthogonal, each.predicted))
        table.add_row(f"{each.amplitude:g}", str(each.features), *figures)
    console.print(table)


def _beside(measured: float, predicted: float | None, form: str) -> str:
    return form.format(measured) + ("" if predicted is None else f" ({form.format(predicted)})")


def main() -> None:
    """Run, print the tables and one JSON object."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    started = time.process_time()
    findings = measure(options.draws, options.seed)
    show(findings, Console(width=150))
    summary = summarise(findings, time.process_time() - started)
    if options.plots is not None:
        folder = writable_folder(options.plots)
        plots = {"mask": mask_plot, "uniform": uniform_plot, "amplitude": amplitude_plot}
        for name, plot in plots.items():
            atomic_write_bytes(folder / f"theory-{name}.png", png(plot(findings)))
    if options.out is not None:
        described = {"draws": options.draws, "seed": options.seed} | summary | asdict(findings)
        atomic_write_text(
            writable_folder(options.out) / "theory.json", json.dumps(described, indent=1) + "\n"
        )
    print(json.dumps(summary))
    if found := violations(findings):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()

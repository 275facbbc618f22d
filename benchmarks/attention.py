"""Time and memory of attention against length.

Exact softmax with a dense learned bias of relative positions (torch's ``scaled_dot_product_attention``),
Performer, FLT, NPRF, Skyformer and SchoenbAt, bidirectional, float32, one row of two heads of width 64, 64
random features or landmarks and 16 Fourier samples, on one thread. What a method learns besides is part of
it: the bias is read off its table, the frequencies are drawn, and both get gradients.

Times are processor seconds of the one thread (what the wall clock shows on an idle machine), medians over
rounds in one process in which all methods take turns. Peak memory is that of forward
and backward together, above what the process held before: each point is a process of its own, forked from one
that has worked out nothing, whose peak resident set size (VmHWM) is reset after a warm-up on 128 tokens.
Prints a table; the last line is one JSON list of method, length, forward_s, forward_backward_s and peak_mb.

    python benchmarks/attention.py --out results/attention --image docs/images/attention.png
"""

import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from kernattn import (
    GaussianMixture,
    draw_landmarks,
    draw_maclaurin,
    flt_attention,
    gaussian_projection,
    nprf_attention,
    performer_attention,
    schoenbat_attention,
    skyformer_attention,
)
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import legend_below, new_figure, png
from tasks.files import atomic_write_bytes, atomic_write_text, writable_folder

HEADS, WIDTH, FEATURES, SAMPLES = 2, 64, 64, 16
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """Time and memory of attention against length.

    Args:
        longest: Greatest length; lengths are powers of two from 128.
        longest_exact: Greatest length for exact attention, which takes memory of L^2.
        longest_nprf: Greatest length for NPRF, which takes memory of L m V.
        rounds: Of all methods at a length; fewer of exact attention and NPRF beyond 1,024.
        methods: Which to measure.
        out: Folder of the figures.
        image: The plot of time, as PNG; that of memory is put beside it. None for no plots.
    """

    longest: int = 32768
    longest_exact: int = 16384
    longest_nprf: int = 8192
    rounds: int = 7
    methods: tuple[str, ...] = ("exact", "performer", "flt", "nprf", "skyformer", "schoenbat")
    out: Path = Path("runs/attention")
    image: Path | None = None

    def lengths(self, method: str) -> list[int]:
        """Lengths at which a method is measured."""
        longest = {"exact": self.longest_exact, "nprf": self.longest_nprf}.get(method, self.longest)
        return [2**k for k in range(7, 24) if 2**k <= min(longest, self.longest)]

    def rounds_at(self, method: str, length: int) -> int:
        """Rounds of a method at a length: fewer of the slow ones beyond 1,024."""
        slow = method in ("exact", "nprf") and length > 1024
        return max(1, self.rounds * 1024 // length) if slow else self.rounds


def exact(length: int) -> tuple[Attend, list[Tensor]]:
    """Softmax with a dense bias off a learned table of lags."""
    table = torch.zeros(HEADS, 2 * length - 1, requires_grad=True)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = table.flip(-1).unfold(-1, length, 1).flip(-2)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])

    return attend, [table]


def performer(length: int) -> tuple[Attend, list[Tensor]]:
    """Positive orthogonal features."""
    projection = gaussian_projection(FEATURES, WIDTH, shape=(HEADS,))
    return lambda q, k, v: performer_attention(q, k, v, projection=projection), []


def flt(length: int) -> tuple[Attend, list[Tensor]]:
    """The same with a learned mixture of eight components."""
    width = torch.logspace(0, 6, 8, base=2).expand(HEADS, 8)
    scale = (1 / (2 * math.pi * width)).requires_grad_()
    mean = torch.zeros(HEADS, 8, 1, requires_grad=True)
    weight = (0.05 / scale.detach()).requires_grad_()
    projection = gaussian_projection(FEATURES, WIDTH + 2 * SAMPLES, shape=(HEADS,))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        samples = GaussianMixture(weight, mean, scale).sample(SAMPLES, stratified=True)
        return flt_attention(query, key, value, samples=samples, projection=projection)

    return attend, [weight, mean, scale]


def nprf(length: int) -> tuple[Attend, list[Tensor]]:
    """Positive features under a learned table of lags, by the FFT where that is faster."""
    table = torch.zeros(HEADS, 2 * length - 1, requires_grad=True)
    projection = gaussian_projection(FEATURES, WIDTH, shape=(HEADS,))
    return lambda q, k, v: nprf_attention(q, k, v, log_bias=table, projection=projection), [table]


def skyformer(length: int) -> tuple[Attend, list[Tensor]]:
    """As many landmarks as the others have features."""
    order = draw_landmarks(2 * length)
    return lambda q, k, v: skyformer_attention(q, k, v, order=order, count=FEATURES), []


def schoenbat(length: int) -> tuple[Attend, list[Tensor]]:
    """Maclaurin features of the exponential kernel."""
    samples = draw_maclaurin(FEATURES, WIDTH, shape=(HEADS,))
    return lambda q, k, v: schoenbat_attention(q, k, v, samples=samples), []


MAKERS = {
    "exact": exact,
    "performer": performer,
    "flt": flt,
    "nprf": nprf,
    "skyformer": skyformer,
    "schoenbat": schoenbat,
}
NAMES = {
    "exact": "exact softmax, dense bias",
    "performer": "Performer",
    "flt": "FLT",
    "nprf": "NPRF",
    "skyformer": "Skyformer",
    "schoenbat": "SchoenbAt",
}


class Case:
    """One method at one length, ready to run."""

    def __init__(self, method: str, length: int) -> None:
        torch.manual_seed(0)
        self.inputs = [torch.randn(1, HEADS, length, WIDTH, requires_grad=True) for _ in range(3)]
        self.direction = torch.randn(1, HEADS, length, WIDTH)
        self.attend, self.learned = MAKERS[method](length)

    def forward(self) -> None:
        """Forward alone, without a graph."""
        with torch.no_grad():
            self.attend(*self.inputs)

    def forward_backward(self) -> None:
        """Forward, and gradients in the inputs and in what is learned."""
        torch.autograd.grad(self.attend(*self.inputs), [*self.inputs, *self.learned], self.direction)


def seconds(call: Callable[[], None]) -> float:
    """Processor time of a call, on its one thread: the wall clock's on an idle machine."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def status(field: str) -> float:
    """A field of ``/proc/self/status`` in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def measure_memory(method: str, length: int, result: "multiprocessing.Queue[float]") -> None:
    """Peak of forward and backward above what is held before, in MB; run in a process of its own."""
    torch.set_num_threads(1)
    Case(method, 128).forward_backward()
    case = Case(method, length)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    case.forward_backward()
    result.put(status("VmHWM") - before)


def peak_memory(method: str, length: int) -> float:
    """`measure_memory` in a fork."""
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    process = context.Process(target=measure_memory, args=(method, length, result))
    process.start()
    peak = result.get()
    process.join()
    return peak


def measure_times(options: Options, length: int) -> dict[str, tuple[float, float]]:
    """Medians of forward, and of forward and backward, all methods taking turns."""
    cases = {m: Case(m, length) for m in options.methods if length in options.lengths(m)}
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in cases}
    for index in range(options.rounds + 1):
        for method, case in cases.items():
            if index > options.rounds_at(method, length):
                continue
            pair = seconds(case.forward), seconds(case.forward_backward)
            if index:
                times[method].append(pair)
    middle = statistics.median
    return {m: (middle(a for a, _ in pairs), middle(b for _, b in pairs)) for m, pairs in times.items()}


def slope(rows: list[dict], method: str, key: str) -> float:
    """Seconds a token: least squares over the lengths from an eighth of the longest on."""
    of_method = [row for row in rows if row["method"] == method]
    longest = max(row["length"] for row in of_method)
    points = [(row["length"], row[key]) for row in of_method if 8 * row["length"] >= longest]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def at(rows: list[dict], method: str, length: int) -> dict | None:
    """The row of a method at a length."""
    return next((row for row in rows if (row["method"], row["length"]) == (method, length)), None)


def conclude(rows: list[dict]) -> dict:
    """What the figures say of FLT: slope against Performer, crossover and ratios against exact attention."""
    measured = {row["method"] for row in rows}
    facts: dict = {}
    for key in ("forward_s", "forward_backward_s"):
        if {"flt", "performer"} <= measured:
            facts[f"slope_{key}"] = slope(rows, "flt", key) / slope(rows, "performer", key)
    both = [
        (row, other) for row in rows if row["method"] == "flt" and (other := at(rows, "exact", row["length"]))
    ]
    if both:
        mine, other = both[-1]
        facts["longest"] = mine["length"]
        for key in ("forward_s", "forward_backward_s"):
            faster = [row["length"] for row, exact in both if row[key] < exact[key]]
            facts[f"crossover_{key}"] = min(faster, default=None)
        for key in ("forward_s", "forward_backward_s", "peak_mb"):
            facts[f"ratio_{key}"] = other[key] / mine[key]
    return facts


def show(rows: list[dict], options: Options, console: Console) -> None:
    """Print the table."""
    table = Table(title="forward / forward and backward in ms / peak MB")
    table.add_column("length")
    for method in options.methods:
        table.add_column(NAMES[method])
    for length in sorted({row["length"] for row in rows}):
        found = [at(rows, method, length) for method in options.methods]
        cells = [
            f"{1e3 * r['forward_s']:.3g} / {1e3 * r['forward_backward_s']:.3g} / {r['peak_mb']:.3g}"
            if r
            else ""
            for r in found
        ]
        table.add_row(f"{length:,}", *cells)
    console.print(table)


def draw(rows: list[dict], options: Options, key: str, title: str, label: str) -> bytes:
    """One line a method against length, on logarithmic axes."""
    figure, axes = new_figure(title, width=6.4, height=4.2)
    colors = {"exact": REFERENCE, "flt": SERIES[1], "performer": SERIES[0]}
    spare = iter(SERIES[2:])
    for index, method in enumerate(options.methods):
        of_method = [row for row in rows if row["method"] == method]
        axes.plot(
            [row["length"] for row in of_method],
            [row[key] for row in of_method],
            label=NAMES[method],
            color=colors.get(method) or next(spare),
            marker="osD^vP"[index % 6],
            markersize=4,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("length")
    axes.set_ylabel(label)
    legend_below(axes)
    return png(figure)


def main() -> None:
    """Measure, print the table, what follows from it, and one JSON list."""
    options = tyro.cli(Options)
    writable_folder(options.out)
    torch.set_num_threads(1)
    points = [(m, length) for m in options.methods for length in options.lengths(m)]
    memory = {point: peak_memory(*point) for point in points}
    rows = []
    for length in sorted({length for _, length in points}):
        for method, (forward, both) in measure_times(options, length).items():
            row = {"method": method, "length": length, "forward_s": forward, "forward_backward_s": both}
            rows.append({**row, "peak_mb": memory[method, length]})
    show(rows, options, Console(width=180))
    facts = conclude(rows)
    for name, value in facts.items():
        print(f"{name}: {value:.4g}" if value is not None else f"{name}: none")
    stored = json.dumps({"rows": rows, "facts": facts}, indent=1)
    atomic_write_text(options.out / "attention.json", stored + "\n")
    if options.image:
        time_plot = draw(rows, options, "forward_backward_s", "Forward and backward", "seconds")
        memory_plot = draw(rows, options, "peak_mb", "Peak memory, forward and backward", "MB")
        atomic_write_bytes(options.image, time_plot)
        atomic_write_bytes(options.image.with_stem(options.image.stem + "-memory"), memory_plot)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

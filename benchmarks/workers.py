"""A synchronous outer step on N workers: the slowest of them, the exchange, failures; simulated.

A worker has one unit. What is measured comes from `scaling.py`, what is assumed stands in `World`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WORKERS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
WAITS = {"wait for all": 0.0, "drop slowest 1 %": 0.01, "drop slowest 5 %": 0.05, "late ones again": 0.0}
PATIENCE = 1.3
"""Medians after which a window that is not done is computed by a spare worker too."""
DESIGNS = ("all-gather", "tree")
FLOAT = 4


@dataclass(frozen=True)
class World:
    """What is assumed of the machines, none of it measured.

    Attributes:
        latency: Seconds of one message.
        bandwidth: Bytes a second of one link.
        slowed: Share of windows in which a worker is held up.
        tail: Exponent of the Pareto distribution of the factor by which it then takes longer.
        slowest: Largest such factor.
        days_between_failures: Of one worker.
        restart: Seconds until a group computes again: processes, imports, compilation.
        checkpoint: Seconds that one takes.
    """

    latency: float = 20e-6
    bandwidth: float = 1e9
    slowed: float = 0.01
    tail: float = 1.5
    slowest: float = 20.0
    days_between_failures: float = 365.0
    restart: float = 60.0
    checkpoint: float = 1.0


@dataclass(frozen=True)
class Measured:
    """What this machine says.

    Attributes:
        windows: Processor seconds of each window of a unit.
        foreign: Seconds that a process spends on each unit, its own or not, beside computing it.
        per_number: Seconds for one random number.
        bytes_per_pair: Of memory that each pair of the run takes in every process.
        state: Bytes of a unit in a checkpoint.
        numbers: Meta-parameters.
        pairs: Of a unit.
        report: Numbers that a unit reports of each pair.
    """

    windows: Array
    foreign: float
    per_number: float
    bytes_per_pair: float
    state: int
    numbers: int
    pairs: int
    report: int

    @property
    def row(self) -> int:
        """Bytes that a unit's worker sends to each other: its report, and two wishes."""
        return FLOAT * (self.report * self.pairs + 2)


def exchange(workers: int, measured: Measured, world: World, design: str) -> float:
    """Seconds of one exchange: a ring of ``N - 1`` messages, or up and down a binary tree.

    The tree carries the sums of the gradient and of its square beside the reports' sums.
    """
    if design == "all-gather":
        return (workers - 1) * (world.latency + measured.row / world.bandwidth)
    levels = 2 * math.ceil(math.log2(workers)) if workers > 1 else 0
    return levels * (world.latency + 2 * FLOAT * measured.numbers / world.bandwidth)


def bookkeeping(workers: int, measured: Measured, design: str) -> float:
    """Seconds that a process spends on the noise and gradient of the units it knows of."""
    return measured.foreign * (workers if design == "all-gather" else 1)


def slowest(
    workers: int, policy: str, measured: Measured, world: World, random: np.random.Generator
) -> tuple[float, float]:
    """Mean time over simulated steps until what the policy waits for is there; useful share of windows.

    Windows are deterministic, so that whichever of two workers is first gives the same bits.
    """
    rounds = max(20, 200_000 // workers)

    def drawn() -> Array:
        times = random.choice(measured.windows, size=(rounds, workers))
        late = random.random(times.shape) < world.slowed
        factors = np.minimum(1 + random.pareto(world.tail, times.shape), world.slowest)
        return np.where(late, times * factors, times)

    times, dropped = drawn(), math.floor(WAITS[policy] * workers)
    if policy == "late ones again":
        until = PATIENCE * float(np.median(measured.windows))
        share = 1 / (1 + float((times > until).mean()))
        return float(np.minimum(times, until + drawn()).max(1).mean()), share
    return float(np.sort(times, axis=1)[:, workers - 1 - dropped].mean()), 1 - dropped / workers


def lost_to_failures(workers: int, world: World) -> float:
    """Share of time lost, at the best interval between checkpoints (Young, 1974)."""
    between = world.days_between_failures * 86_400 / workers
    interval = math.sqrt(2 * world.checkpoint * between)
    return min(1.0, world.checkpoint / interval + (interval / 2 + world.restart) / between)


def simulate(measured: Measured, world: World) -> list[dict[str, float | str]]:
    """A row for each number of workers, policy and design."""
    random = np.random.default_rng(0)
    useful, rows = float(measured.windows.mean()), []
    for workers in WORKERS:
        for policy in WAITS:
            computing, kept = slowest(workers, policy, measured, world, random)
            for design in DESIGNS:
                step = (
                    computing
                    + exchange(workers, measured, world, design)
                    + bookkeeping(workers, measured, design)
                )
                rows.append(
                    {
                        "workers": workers,
                        "policy": policy,
                        "design": design,
                        "computing": computing,
                        "exchange": exchange(workers, measured, world, design),
                        "bookkeeping": bookkeeping(workers, measured, design),
                        "efficiency": useful * kept / step * (1 - lost_to_failures(workers, world)),
                    }
                )
    return rows


def dropping(random: np.random.Generator, pairs: int = 200_000) -> list[dict[str, float]]:
    """What leaving out the slowest share does to a mean, for times that know nothing and something of it."""
    rows = []
    for correlation in (0.0, 0.1, 0.3):
        for dropped in (0.01, 0.05):
            value, other = random.standard_normal((2, pairs))
            slowness = correlation * value + math.sqrt(1 - correlation**2) * other
            kept = value[slowness <= np.quantile(slowness, 1 - dropped)]
            rows.append(
                {
                    "correlation": correlation,
                    "dropped": dropped,
                    "bias_in_deviations_of_a_pair": float(kept.mean()),
                    "variance_ratio": float(kept.var() / len(kept) * pairs),
                }
            )
    return rows

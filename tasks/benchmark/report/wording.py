"""What a benchmark says in words: its headline, how that was found, and figures with their intervals."""

from __future__ import annotations

from collections.abc import Sized

from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.results import Results
from tasks.benchmark.suites import SUITES


def headline_text(results: Results) -> str:
    """One sentence: which optimizer needs how many times the steps of the other, with the interval."""
    headline = results.headline
    if headline is None:
        return "Optimizer benchmark"
    ours, theirs = results.settings.entry(headline.optimizer).label, reference_text(results)
    figure = headline.speedup
    if figure is None:
        return f"{ours} against {theirs}: no speed-up, since some runs did not finish or did not progress"
    if figure.low is not None and figure.high is not None and figure.low <= 1 <= figure.high:
        return f"{ours} and {theirs} cannot be told apart: {interval_text(figure, '{:.2f}', '×')}"
    if figure.value >= 1:
        words = f"{theirs} needs {interval_text(figure, '{:.2f}', '×')} the steps of {ours}"
        return words[0].upper() + words[1:]
    return f"{ours} needs {interval_text(_inverse(figure), '{:.2f}', '×')} the steps of {theirs}"


def lead_text(results: Results) -> str:
    """How the headline was found, in a sentence, and what is equal for everyone."""
    settings = results.settings
    where = f"the suite {settings.suite}" if settings.suite else ", ".join(results.tasks)
    seeds = count(settings.seeds, "seed")
    runs = f"{count(settings.entries, 'optimizer')}, {len(results.cells):,} runs"
    text = f"{count(results.tasks, 'task')}, {where}; {runs}."
    if results.headline is not None:
        mean = "Interquartile mean over" if len(results.tasks) > 1 else "On"
        interval = " with its 95 % bootstrap interval" if len(settings.seeds) > 1 else ", without an interval"
        text = (
            f"{mean} {count(results.tasks, 'task')} ({where}) of the ratio of steps to a common training "
            f"loss, each optimizer at the best of its sweep, {seeds}{interval}; {runs}."
        )
    text += " Equal seeds start from the same weights and see the same batches."
    failed = len(results.failures())
    text += f" {failed:,} runs failed; their messages are below." if failed else ""
    return " ".join(f"{text} {caveat_text(results)}".split())


def caveat_text(results: Results) -> str:
    """A sentence on a suite that runs a part of each sweep; empty for all else."""
    suite = SUITES.get(results.settings.suite)
    if suite is None or suite.thinning == 1:
        return ""
    return f"The suite {suite.name} shows that everything runs; its figures are no result."


def compute_text(results: Results) -> str:
    """How long all runs took together."""
    seconds = sum(run.seconds for run in results.cells)
    time = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
    return f"{time} of one thread"


def reference_text(results: Results) -> str:
    """The references in the middle of a sentence: "the best Adam", "the best of Adam and AdamW"."""
    label = results.settings.reference_label
    return f"the best of {label}" if len(results.settings.references) > 1 else f"the best {label}"


def interval_text(interval: Interval, form: str, unit: str = "") -> str:
    """A figure with its interval in brackets.

    Args:
        interval: The figure.
        form: Format of a number, such as ``"{:.2f}"``.
        unit: Follows the figure.
    """
    limits = limits_text(interval, form)
    return form.format(interval.value) + unit + (f" [{limits}]" if limits else "")


def limits_text(interval: Interval, form: str) -> str:
    """The limits of an interval; empty if it has none."""
    if interval.low is None or interval.high is None:
        return ""
    low, high = form.format(interval.low), form.format(interval.high)
    return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"


def range_text(interval: Interval) -> str:
    """The limits of a factor's interval in words."""
    if interval.low is None or interval.high is None:
        return "one seed, no interval"
    return f"95 % interval {interval.low:.2f} to {interval.high:.2f}"


def count(items: Sized, noun: str) -> str:
    """How many of what."""
    number = len(items)
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _inverse(factor: Interval) -> Interval:
    if factor.low is None or factor.high is None:
        return Interval(1 / factor.value)
    return Interval(1 / factor.value, 1 / factor.high, 1 / factor.low)

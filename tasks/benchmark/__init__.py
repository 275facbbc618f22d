"""How an optimizer is scored on tasks: any ``torch.optim.Optimizer`` against any other, on equal terms.

The figures and the files are defined in ``docs/benchmark.md``.
"""

from tasks.benchmark.baselines import BASELINES, get_entry
from tasks.benchmark.entry import Entry, OptimizerFactory, centred_grid, log_grid
from tasks.benchmark.page import Section, write_page
from tasks.benchmark.report import terminal_table
from tasks.benchmark.results import Results
from tasks.benchmark.runner import BenchmarkInterrupted, run_benchmark
from tasks.benchmark.schedules import SCHEDULES

__all__ = [
    "BASELINES",
    "SCHEDULES",
    "BenchmarkInterrupted",
    "Entry",
    "OptimizerFactory",
    "Results",
    "Section",
    "centred_grid",
    "get_entry",
    "log_grid",
    "run_benchmark",
    "terminal_table",
    "write_page",
]

"""How an optimizer is scored on tasks: any ``torch.optim.Optimizer`` against any other, on equal terms.

The figures and the files are defined in ``docs/benchmark.md``.
"""

from tasks.benchmark.contestants.baselines import BASELINES, get_entry
from tasks.benchmark.contestants.entry import Entry, OptimizerFactory, centred_grid, log_grid
from tasks.benchmark.report.page import Section, write_page
from tasks.benchmark.report.terminal import terminal_table
from tasks.benchmark.results import Results
from tasks.benchmark.runner import BenchmarkInterrupted, check_benchmark, run_benchmark
from tasks.benchmark.schedules import SCHEDULES
from tasks.benchmark.suites import SUITES, Suite, get_suite

__all__ = [
    "BASELINES",
    "SCHEDULES",
    "SUITES",
    "BenchmarkInterrupted",
    "Entry",
    "OptimizerFactory",
    "Results",
    "Section",
    "Suite",
    "centred_grid",
    "check_benchmark",
    "get_entry",
    "get_suite",
    "log_grid",
    "run_benchmark",
    "terminal_table",
    "write_page",
]

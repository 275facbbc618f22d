import os
from collections.abc import Callable
from functools import cache

import pytest

from .suite import Suite, UnavailableError, Verdict

COUNTS = pytest.StashKey[dict[str, tuple[int, int, int]]]()


@pytest.fixture(scope="session")
def judge(pytestconfig, tmp_path_factory) -> Callable[[Suite], Verdict | Exception]:
    """Runs each suite once; its verdict, or why there is none, is remembered."""
    counts = pytestconfig.stash.setdefault(COUNTS, {})

    @cache
    def run(suite: Suite) -> Verdict | Exception:
        try:
            verdict = suite.run(pytestconfig.cache.mkdir("peers"), tmp_path_factory.mktemp(suite.project))
        except Exception as error:
            return error
        counts[f"{suite.project} {suite.version}"] = verdict.counts()
        return verdict

    return run


@pytest.fixture
def verdict(suite, judge) -> Verdict:
    found = judge(suite)
    if isinstance(found, Verdict):
        return found
    if isinstance(found, UnavailableError) and not os.environ.get("CI"):
        pytest.skip(str(found))
    pytest.fail(f"{type(found).__name__}: {found}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for suite, (selected, passed, deselected) in config.stash.get(COUNTS, {}).items():
        terminalreporter.write_line(f"{suite}: {passed} of {selected} tests passed, {deselected} deselected")

"""What the inner pytest tells the outer one beside its report."""

from collections.abc import Generator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest


class Witness:
    """Notes each test's id and whether the test built the judged class, and lists what was deselected.

    A test may pass without ever meeting the judged class; this is how the outer run finds out.
    """

    def __init__(self, config: pytest.Config, judged: type) -> None:
        self._deselected = Path(config.getoption("xmlpath")).with_name("deselected.txt")
        self._deselected.touch()
        self._notes: list[tuple[str, object]] = []
        build = judged.__init__

        @wraps(build)
        def noted(instance: object, *args: Any, **options: Any) -> None:
            if ("built", "yes") not in self._notes:
                self._notes.append(("built", "yes"))
            build(instance, *args, **options)

        judged.__init__ = noted

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._notes = item.user_properties
        self._notes.append(("id", item.nodeid))
        return (yield)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        with self._deselected.open("a") as file:
            file.writelines(f"{item.nodeid}\n" for item in items)

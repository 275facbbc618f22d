import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from learned_opt import RuleConfig, UpdateRule, save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved learned optimizer: the one that is Adam."""
    folder = tmp_path_factory.mktemp("saved") / "mine"
    config = RuleConfig()
    save_checkpoint(folder, config, UpdateRule(config).init_meta(), {})
    return folder


@pytest.fixture
def handler() -> Iterator[None]:
    """Restore afterwards what handles Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)

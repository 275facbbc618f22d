from pathlib import Path

import pytest

from tests.meta_train.training.runs import write_images


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 images to train on and 12 to validate on, in three classes."""
    return write_images(tmp_path_factory.mktemp("jpegs"))


@pytest.fixture
def own_jpegs(tmp_path: Path) -> Path:
    """A folder as `jpegs`, which a test may spoil."""
    return write_images(tmp_path / "images")

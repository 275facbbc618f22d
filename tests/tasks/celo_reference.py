"""Where Celo's published weights and golden data lie; neither is part of this repository."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def reference(name):
    """The path of a file: in ``$CELO_REFERENCE``, or in a checkout's ``../shared/reference/celo``."""
    folder = os.environ.get("CELO_REFERENCE") or REPOSITORY.parent / "shared" / "reference" / "celo"
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"Celo's {name} is not here; set CELO_REFERENCE to the folder that holds it")
    return path

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
NEEDS = {
    "accelerate_loop": "accelerate",
    "hugging_face_trainer": "transformers",
    "lightning_module": "lightning",
}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_it_runs_and_learns(example, tmp_path) -> None:
    if example in NEEDS:
        pytest.importorskip(NEEDS[example], reason="pip install 'learned-opt[frameworks]'")
    done = subprocess.run(
        [sys.executable, FOLDER / f"{example}.py"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^test accuracy: (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert accuracy, done.stdout
    assert float(accuracy[1]) > 0.85
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"

"""The Python of the pages for users runs as it stands, each block on its own."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learned_opt import FLT

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/attention.md",
    "docs/benchmark.md",
    "docs/rastrigin.md",
    "docs/relative-positions.md",
    "docs/rule.md",
    "docs/using.md",
)
FRAMEWORKS = ("accelerate", "huggingface_hub", "lightning", "transformers")
SLOW = ('backend="compiled"', "torch.compile")

pytestmark = pytest.mark.filterwarnings("default")


def snippets(page: str) -> Iterator[pytest.param]:
    """The fenced blocks of Python, called by their headings and numbered."""
    heading, count = "", 0
    for match in re.finditer(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S):
        if match[1]:
            heading, count = match[1], 0
            continue
        count += 1
        marks = [pytest.mark.slow] if any(word in match[2] for word in SLOW) else []
        yield pytest.param(match[2], id=f"{page}: {heading} {count}", marks=marks)


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict[str, object]:
    """What the pages say the reader has."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    dataset = TensorDataset(torch.randn(32, 6), torch.randint(2, (32,)))
    optimizer = FLT(model.parameters())
    for folder in ("runs/mine", "runs/small"):
        optimizer.save_pretrained(folder)
    Path("runs/bench-core").symlink_to(ROOT / "results/core")
    return {
        "model": model,
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=8),
        "loss_fn": nn.functional.cross_entropy,
        "device": "cpu",
        "optimizer": optimizer,
    }


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def hub(monkeypatch) -> None:
    """The Hugging Face Hub without a network; `test_sharing` has one with."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", MagicMock())
    monkeypatch.setattr(hub, "snapshot_download", lambda repo_id: "runs/mine")


@pytest.mark.parametrize("code", [snippet for page in PAGES for snippet in snippets(page)])
def test_it_runs(code, names, request) -> None:
    for framework in FRAMEWORKS:
        if framework in code and not importlib.util.find_spec(framework):
            pytest.skip(f"pip install 'learned-opt[frameworks]' for {framework}")
    if "torch.distributed" in code:
        request.getfixturevalue("one_process")
    if "hub" in code:
        request.getfixturevalue("hub")
    before = [param.detach().clone() for param in names["model"].parameters()]
    exec(code, names)
    if "step()" in code and "model" in code:
        params = list(names["model"].parameters())
        assert not any(torch.equal(old, new) for old, new in zip(before, params, strict=True))
    assert isinstance(getattr(names["optimizer"], "optimizer", names["optimizer"]), torch.optim.Optimizer)

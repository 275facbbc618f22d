import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from learned_opt import FLT

accelerate = pytest.importorskip("accelerate", reason="pip install 'learned-opt[frameworks]'")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps one state for the process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """A model, its optimizer and its schedule, prepared."""

    def __init__(
        self, dtype: torch.dtype, state_dtype: torch.dtype = torch.float32, **options: object
    ) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
        optimizer = FLT(model.parameters(), lr=1e-2, weight_decay=0.1, state_dtype=state_dtype)
        self.accelerator = accelerate.Accelerator(cpu=True, **options)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(
            model, optimizer, CosineAnnealingLR(optimizer, T_max=20)
        )
        self.generator = torch.Generator().manual_seed(1)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            with self.accelerator.accumulate(self.model):
                inputs = torch.randn(16, 4, generator=self.generator).to(self.model[0].weight.dtype)
                self.accelerator.backward((self.model(inputs).float() - 1).square().mean())
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()

    def bits(self) -> tuple[list[Tensor], dict[str, object]]:
        return [param.detach().clone() for param in self.model.parameters()], self.optimizer.state_dict()


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["model32", "model16"])
def test_a_loaded_run_goes_on_to_the_same_bits(tmp_path, dtype, state_dtype) -> None:
    whole = Run(dtype, state_dtype)
    whole.train(5)
    whole.accelerator.save_state(tmp_path, safe_serialization=True)
    whole.train(4)

    resumed = Run(dtype, state_dtype)
    resumed.accelerator.load_state(tmp_path)
    resumed.generator.manual_seed(1)
    for _ in range(5):
        torch.randn(16, 4, generator=resumed.generator)
    resumed.train(4)
    torch.testing.assert_close(resumed.bits(), whole.bits(), rtol=0, atol=0)
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_only_every_second_step_moves_when_gradients_are_accumulated() -> None:
    run = Run(torch.float32, gradient_accumulation_steps=2)
    before = run.bits()[0]
    run.train(1)
    torch.testing.assert_close(run.bits()[0], before, rtol=0, atol=0)
    run.train(1)
    assert not torch.equal(run.bits()[0][0], before[0])
    assert int(run.optimizer.state_dict()["state"][0]["step"]) == 1


def test_a_prepared_optimizer_survives_pickle() -> None:
    run = Run(torch.float32)
    run.train(2)
    loaded = pickle.loads(pickle.dumps(run.optimizer))
    torch.testing.assert_close(loaded.state_dict(), run.optimizer.state_dict(), rtol=0, atol=0)

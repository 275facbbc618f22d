from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from learned_opt import FLT

lightning = pytest.importorskip("lightning", reason="pip install 'learned-opt[frameworks]'")
pytestmark = pytest.mark.filterwarnings("default")


class Regression(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, targets = batch
        loss = (self.model(inputs) - targets).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = FLT(self.model.named_parameters(), lr=1e-2, weight_decay=0.1)
        schedule = {"scheduler": CosineAnnealingLR(optimizer, T_max=60), "interval": "step"}
        return [optimizer], [schedule]


def fit(folder: Path, epochs: int, *, resume: Path | None = None, **options: object) -> Regression:
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=16)
    module = Regression()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader, ckpt_path=resume)
    trainer.save_checkpoint(folder / f"after-{epochs}.ckpt")
    return module


def test_a_resumed_run_ends_in_the_same_bits(tmp_path) -> None:
    whole = fit(tmp_path, 6)
    fit(tmp_path, 2)
    resumed = fit(tmp_path / "again", 6, resume=tmp_path / "after-2.ckpt")
    assert resumed.losses == whole.losses[8:]
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert whole.losses[-1] < whole.losses[0] / 2


def test_precision_clipping_and_accumulation_are_lightnings_own(tmp_path) -> None:
    module = fit(
        tmp_path,
        20,
        precision="bf16-mixed",
        gradient_clip_val=0.5,
        gradient_clip_algorithm="norm",
        accumulate_grad_batches=2,
    )
    assert module.trainer.global_step == 40
    assert module.losses[-1] < module.losses[0] / 2

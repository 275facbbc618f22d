"""Lightning: a perceptron on handwritten digits, its optimizer made in ``configure_optimizers``.

Run it with ``python examples/lightning_module.py``, after ``pip install '.[frameworks]'``; it takes
about 10 seconds on a CPU.
"""

from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from learned_opt import FLT


class Classifier(lightning.LightningModule):
    """A perceptron of one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy of one batch."""
        images, labels = batch
        return cross_entropy(self.model(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count the hits of one batch."""
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        """FLT where AdamW stood, and a schedule for each step."""
        optimizer = FLT(self.parameters(), weight_decay=0.01)
        scheduler = CosineAnnealingLR(optimizer, T_max=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    """Train, and print the accuracy on images kept aside."""
    lightning.seed_everything(0)
    pixels, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
    train_data, test_data = random_split(data, [0.8, 0.2])
    trainer = lightning.Trainer(
        max_epochs=10,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    classifier = Classifier()
    trainer.fit(classifier, DataLoader(train_data, batch_size=64, shuffle=True))
    scores = trainer.test(classifier, DataLoader(test_data, batch_size=64), verbose=False)
    print(f"test accuracy: {scores[0]['accuracy']:.3f}")


if __name__ == "__main__":
    main()

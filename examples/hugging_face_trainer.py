"""Hugging Face: a Vision Transformer on handwritten digits under `transformers.Trainer`.

Run it with ``python examples/hugging_face_trainer.py``, after ``pip install '.[frameworks]'``; it
takes about 15 seconds on a CPU.
"""

from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, random_split
from transformers import (
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from learned_opt import FLT


class Digits(Dataset):
    """Handwritten digits, 8 by 8, under the names that the model's arguments have."""

    def __init__(self) -> None:
        dataset = load_digits()
        self.pixels = torch.tensor(dataset.images, dtype=torch.float32)[:, None] / 16
        self.labels = torch.tensor(dataset.target)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of images whose label has the highest score."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(1) == prediction.label_ids))}


def main() -> None:
    """Train, and print the accuracy on images kept aside."""
    set_seed(0)
    train_data, test_data = random_split(Digits(), [0.8, 0.2])
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            num_labels=10,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
        )
    )
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                num_train_epochs=10,
                per_device_train_batch_size=64,
                weight_decay=0.05,
                lr_scheduler_type="cosine",
                warmup_steps=10,
                logging_steps=50,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=train_data,
            eval_dataset=test_data,
            compute_metrics=accuracy,
            optimizer_cls_and_kwargs=(FLT, {}),
        )
        trainer.train()
        print(f"test accuracy: {trainer.evaluate()['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()

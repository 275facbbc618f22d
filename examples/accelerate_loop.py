"""Accelerate: a perceptron on handwritten digits; the same script runs on one process or on many.

Run it with ``python examples/accelerate_loop.py``, after ``pip install '.[frameworks]'``; it takes
a few seconds on a CPU. On several GPUs, ``accelerate launch examples/accelerate_loop.py``; on two processes
of a CPU, ``ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 examples/accelerate_loop.py``.
"""

from math import ceil

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from learned_opt import FLT

EPOCHS = 10
ACCUMULATED = 2


def main() -> None:
    """Train with accumulated and clipped gradients, and print the accuracy on images kept aside."""
    set_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
    train_data, test_data = random_split(data, [0.8, 0.2])

    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATED)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = FLT(model.parameters(), weight_decay=0.01)
    loader = DataLoader(train_data, batch_size=32, shuffle=True)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * ceil(len(loader) / ACCUMULATED))
    model, optimizer, loader, test_loader, scheduler = accelerator.prepare(
        model, optimizer, loader, DataLoader(test_data, batch_size=64), scheduler
    )
    for epoch in range(EPOCHS):
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(images), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: training loss {loss.item():.3f}")

    hits = []
    for images, labels in test_loader:
        hits.append(accelerator.gather_for_metrics(model(images).argmax(1) == labels))
    accelerator.print(f"test accuracy: {torch.cat(hits).float().mean().item():.3f}")


if __name__ == "__main__":
    main()

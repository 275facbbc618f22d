"""Plain PyTorch: a perceptron on handwritten digits, with FLT where AdamW stood.

Run it with ``python examples/torch_loop.py``; it takes a few seconds on a CPU.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from learned_opt import FLT

EPOCHS = 10


def main() -> None:
    """Train, and print the accuracy on images kept aside."""
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
    train_data, test_data = random_split(data, [0.8, 0.2])
    loader = DataLoader(train_data, batch_size=64, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = FLT(model.parameters(), weight_decay=0.01)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
        print(f"epoch {epoch}: training loss {loss.item():.3f}")

    images, labels = test_data[:]
    accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()

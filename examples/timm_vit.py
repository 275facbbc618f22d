"""timm: a Vision Transformer on handwritten digits, its optimizer made by name.

Run it with ``python examples/timm_vit.py``; it takes about 15 seconds on a CPU.
"""

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from learned_opt.integrations import register_with_timm

EPOCHS = 10


def main() -> None:
    """Train, and print the accuracy on images kept aside."""
    torch.manual_seed(0)
    dataset = load_digits()
    pixels = torch.tensor(dataset.images, dtype=torch.float32)[:, None] / 16
    train_data, test_data = random_split(TensorDataset(pixels, torch.tensor(dataset.target)), [0.8, 0.2])
    loader = DataLoader(train_data, batch_size=64, shuffle=True)

    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=32,
        depth=2,
        num_heads=2,
    )
    register_with_timm()
    optimizer = create_optimizer_v2(model, opt="fltbase", lr=2e-3, weight_decay=0.05, layer_decay=0.9)
    scheduler = CosineLRScheduler(optimizer, t_initial=EPOCHS, warmup_t=1, warmup_lr_init=1e-4)
    for epoch in range(EPOCHS):
        scheduler.step(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: training loss {loss.item():.3f}")

    model.eval()
    images, labels = test_data[:]
    accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()

"""How well a classifier does."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meta_train.training.data import Batch
from meta_train.training.processes import World


@dataclass(frozen=True)
class Score:
    """What a validation gave.

    Attributes:
        loss: Mean cross-entropy, in nats.
        top1: Share of images whose class is the likeliest.
        top5: Share of images whose class is among the five likeliest.
    """

    loss: float
    top1: float
    top5: float


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    world: World,
    *,
    autocast: Callable[[], AbstractContextManager[object]],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Score:
    """Loss and accuracy of a classifier over the images of all processes.

    Args:
        model: Put into evaluation mode, and left there.
        batches: Those of this process.
        world: The processes.
        autocast: Context in which the model computes.
        memory_format: Of the images.

    Raises:
        ValueError: If there are no images.
    """
    from timm.utils import accuracy

    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for images, labels in batches:
        if not len(labels):
            continue
        images = images.to(world.device, memory_format=memory_format)
        labels = labels.to(world.device)
        with autocast():
            scores: Tensor = model(images).float()
        right = [round(float(share) * len(labels) / 100.0) for share in accuracy(scores, labels, topk=(1, 5))]
        loss = float(cross_entropy(scores, labels, reduction="sum"))
        sums += torch.tensor([loss, *right, len(labels)], dtype=torch.float64)
    loss, top1, top5, count = world.sum(sums).tolist()
    if not count:
        raise ValueError("none of the validation images can be read")
    return Score(loss / count, top1 / count, top5 / count)

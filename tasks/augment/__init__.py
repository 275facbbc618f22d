"""Augmentation: the same task in other coordinates, other units, other precision, or with noise.

Every augmentation wraps a task and is a task; wrapping again composes. What is drawn for one instance travels
at the end of its batches, so a population shares one loss. In whatever order they are applied, the loss and
the gradient are the same, with two exceptions: noise depends on the order in which it is drawn, and the noise
of a gradient is sized by the tensor, after or before its entries got units of their own.
"""

from tasks.augment.family import Augmentation, Range, augmented, augmented_configurations
from tasks.augment.noise import GradientNoise, LabelNoise
from tasks.augment.reparametrise import Reparametrised, reparametrise, reparametrised
from tasks.augment.scaling import BatchSize, LossScale, Precision
from tasks.augment.wrapper import Augmented, compose

__all__ = [
    "Augmentation",
    "Augmented",
    "BatchSize",
    "GradientNoise",
    "LabelNoise",
    "LossScale",
    "Precision",
    "Range",
    "Reparametrised",
    "augmented",
    "augmented_configurations",
    "compose",
    "reparametrise",
    "reparametrised",
]

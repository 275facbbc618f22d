"""Logistic regression: convex, so that the distance to the optimum can be reported.

The objective is a finite sum, with a penalty on all parameters that makes its minimum unique:

    F(W, b) = mean over all examples of cross-entropy(W x + b, label) + penalty / 2 (||W||^2 + ||b||^2).

Batches are drawn with replacement. There is nothing held out: the question is how near the minimum an
optimizer comes. The minimum is found by L-BFGS in float64 and certified: ``F`` is strongly convex with the
constant ``penalty``, so a value lies at most ``||gradient||^2 / (2 penalty)`` above the minimum. The search
takes 0.2 s for 20 features and 5 classes, 2 s for 1,000 features and 10 classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import (
    Batch,
    ParametricFamily,
    Params,
    Split,
    Task,
    TaskFamily,
    bounded,
    instance_generator,
    log_uniform,
)
from tasks.datasets import load_dataset
from tasks.draws import log_integer
from tasks.functions import (
    CAP,
    draw_dimension,
    draw_rotation,
    require_condition_number,
    spread_eigenvalues,
)
from tasks.minima import fingerprint, remembered_minimum

VERSION = 1  # raise when the search changes, so that what it found before is not reused
EXAMPLES = 1024
SHARPNESS = 3.0
START = 0.1
ACCURACY = 1e-9
MAX_ITERATIONS = 20_000
PENALTIES = (1e-4, 1e-1)
CONDITION_NUMBERS = (1.0, 1e3)
CLASSES = (2, 10)
BATCH_SIZES = (16, 256)


class LogisticRegression(Task):
    """Multinomial logistic regression on given examples. A batch is ``(inputs [B, d], labels [B])``.

    Args:
        inputs: All examples, ``[N, d]``, float32.
        labels: Their classes, ``[N]``, int64.
        classes: Number of classes.
        batch_size: Examples in a batch.
        penalty: Weight of the squared parameters, see the module's docstring.
        name: Name of the task.
        description: One line for people.

    Raises:
        ValueError: If the shapes disagree, a label is out of range, or a number is.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        classes: int,
        batch_size: int,
        penalty: float,
        name: str,
        description: str,
    ) -> None:
        if inputs.dim() != 2 or labels.shape != inputs.shape[:1] or not labels.numel():
            raise ValueError(
                f"inputs must be [N, d] and labels [N], N at least 1, got {tuple(inputs.shape)} and "
                f"{tuple(labels.shape)}"
            )
        if classes < 2 or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"labels must be below classes, which is at least 2, got {int(labels.min())} to "
                f"{int(labels.max())} for {classes}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 < penalty < math.inf:
            raise ValueError(f"penalty must be positive and finite, got {penalty}")
        super().__init__(name=name, description=description, default_steps=1000, learning_rates=(1e-3, 1e-1))
        self.inputs = inputs
        self.labels = labels
        self.classes = classes
        self.batch_size = batch_size
        self.penalty = penalty

    def init(self, generator: torch.Generator) -> Params:
        """Draw ``weight [classes, d]``, normal of deviation ``0.1 / sqrt(d)``; ``bias [classes]`` is 0."""
        width = self.inputs.shape[1]
        weight = torch.randn(self.classes, width, generator=generator) * (START / math.sqrt(width))
        return {"weight": weight, "bias": torch.zeros(self.classes)}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw one batch with replacement; both splits are the same examples."""
        return self._draw(generator, (self.batch_size,))

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw ``count`` batches with one gather; the same as ``count`` calls of ``batch``."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return self._draw(generator, (count, self.batch_size))

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Mean cross-entropy over the batch, in nats, plus the penalty."""
        inputs, labels = batch
        weight, bias = params["weight"], params["bias"]
        logits = inputs @ weight.mT + bias
        penalty = 0.5 * self.penalty * (weight.square().sum() + bias.square().sum())
        return nn.functional.cross_entropy(logits, labels) + penalty

    def normalise(self, loss: Tensor) -> Tensor:
        """Loss in units of a uniform guess's, ``ln(classes)``, clipped to [0, 1.5]."""
        uniform = math.log(self.classes)
        return bounded(loss, 0.0, CAP * uniform) / uniform

    @torch.no_grad()
    def evaluate(self, params: Params) -> dict[str, float]:
        """Return objective, gap to its minimum and accuracy, all over all examples, in float64."""
        exact = {name: value.detach().cpu().double() for name, value in params.items()}
        inputs = self.inputs.double()
        loss = float(self.loss(exact, (inputs, self.labels)))
        guesses = (inputs @ exact["weight"].mT + exact["bias"]).argmax(-1)
        accuracy = float((guesses == self.labels).double().mean())
        return {"loss": loss, "gap": loss - self.minimum(), "accuracy": accuracy}

    def minimum(self, *, cache: Path | None = None) -> float:
        """Return the minimum of the objective, searched for once.

        Args:
            cache: Folder in which it is kept, ``tasks.minima.minima_folder()`` if None.
        """
        settings = f"logistic: version {VERSION}, {self.classes} classes, penalty {self.penalty!r}"
        key = fingerprint(settings, (self.inputs, self.labels))
        return remembered_minimum(key, lambda: self.solve()[0], folder=cache)

    @torch.enable_grad()
    def solve(self) -> tuple[float, float]:
        """Minimise the objective.

        Returns:
            The least value found, and how far above the minimum it may lie: less than 1e-9, or a warning.
        """
        from scipy.optimize import minimize  # scipy.optimize takes a while to import

        batch = (self.inputs.double(), self.labels)
        shape = (self.classes, self.inputs.shape[1] + 1)
        flat = math.sqrt(2 * self.penalty * ACCURACY / math.prod(shape))

        def value_and_gradient(point: Any) -> tuple[float, Any]:
            leaf = torch.from_numpy(point.copy()).requires_grad_()
            weight_and_bias = leaf.view(shape)
            params = {"weight": weight_and_bias[:, :-1], "bias": weight_and_bias[:, -1]}
            loss = self.loss(params, batch)
            (gradient,) = torch.autograd.grad(loss, leaf)
            return loss.item(), gradient.numpy()

        found = minimize(
            value_and_gradient,
            torch.zeros(math.prod(shape), dtype=torch.float64).numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": MAX_ITERATIONS,
                "maxfun": 2 * MAX_ITERATIONS,
                "maxcor": 30,
                "ftol": 0.0,
                "gtol": flat,
            },
        )
        error = float((found.jac**2).sum()) / (2 * self.penalty)
        if error > ACCURACY:
            warnings.warn(
                f"{self.name}: the minimum is known only to {error:.1e}", RuntimeWarning, stacklevel=2
            )
        return float(found.fun), error

    def _draw(self, generator: torch.Generator, shape: tuple[int, ...]) -> Batch:
        index = torch.randint(len(self.labels), shape, generator=generator)
        return self.inputs[index], self.labels[index]


def synthetic(
    generator: torch.Generator,
    *,
    features: int = 20,
    classes: int = 5,
    condition_number: float = 100.0,
    batch_size: int = 32,
    penalty: float = 1e-3,
    name: str = "logistic",
) -> LogisticRegression:
    """Draw 1,024 examples and fit them: Gaussian inputs, labels drawn from a random logistic model.

    Args:
        generator: Draws inputs, model and labels.
        features: Width of an input, ``d``.
        classes: Number of classes.
        condition_number: Of the inputs' covariance, whose eigenvalues are spaced evenly in their logarithms
            on random axes, of mean 1.
        batch_size: Examples in a batch.
        penalty: Weight of the squared parameters.
        name: Name of the task.

    Raises:
        ValueError: If a number is out of range.
    """
    if features < 1 or classes < 2:
        raise ValueError(f"features must be at least 1 and classes at least 2, got {features} and {classes}")
    scales = spread_eigenvalues(features, require_condition_number(condition_number)).sqrt()
    mixing = (scales.unsqueeze(1) * draw_rotation(features, generator)).float()
    inputs = torch.randn(EXAMPLES, features, generator=generator) @ mixing
    model = torch.randn(features, classes, generator=generator) * (SHARPNESS / math.sqrt(features))
    labels = torch.multinomial(torch.softmax(inputs @ model, -1), 1, generator=generator).squeeze(1)
    shape = f"{features} features, {classes} classes, condition {condition_number:.3g}"
    return LogisticRegression(
        inputs,
        labels,
        classes=classes,
        batch_size=batch_size,
        penalty=penalty,
        name=name,
        description=f"logistic regression: {shape}, penalty {penalty:.3g}, batch {batch_size}",
    )


def logistic(seed: int = 0) -> LogisticRegression:
    """Return the synthetic problem of a seed: 20 features, 5 classes, condition number 100."""
    return synthetic(instance_generator(seed, "logistic"))


def logistic_digits(_seed: int = 0) -> LogisticRegression:
    """Return logistic regression on the 1,437 training digits: one instance, whatever the seed."""
    dataset = load_dataset("digits")
    ((images, labels),) = dataset.chunks("train", dataset.size("train"))
    return LogisticRegression(
        images.flatten(1),
        labels,
        classes=dataset.classes,
        batch_size=64,
        penalty=1e-3,
        name="logistic-digits",
        description="digits: logistic regression 64-10, penalty 0.001, batch 64",
    )


def _sample_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration."""
    features, classes = draw_dimension(generator), log_integer(*CLASSES, generator)
    batch_size = log_integer(*BATCH_SIZES, generator)
    condition_number = log_uniform(*CONDITION_NUMBERS, generator)
    penalty = log_uniform(*PENALTIES, generator)
    return TaskFamily(
        "logistic",
        f"{features} features, {classes} classes, condition number {condition_number:.3g}, "
        f"penalty {penalty:.3g}, batch {batch_size}",
        partial(
            synthetic,
            features=features,
            classes=classes,
            condition_number=condition_number,
            batch_size=batch_size,
            penalty=penalty,
        ),
    )


TASKS: dict[str, Callable[[int], Task]] = {"logistic": logistic, "logistic-digits": logistic_digits}
JUDGES = frozenset({"logistic-digits"})

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily(
        "logistic", "logistic regression: random models, 20 features, 5 classes, condition 100", synthetic
    ),
)

PARAMETRIC: tuple[ParametricFamily, ...] = (
    ParametricFamily(
        "logistic",
        "logistic regression on random models: penalty 1e-4 to 0.1, condition number 1 to 1,000",
        "2 to 1,000 features, 2 to 10 classes",
        _sample_family,
    ),
)

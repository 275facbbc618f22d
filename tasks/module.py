"""Any ``nn.Module`` as a task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tasks.base import Batch, Params, Split, Task, bounded, draw_seed
from tasks.datasets import DataSource

CLASSIFICATION_CAP = 1.5


class ModuleTask(Task):
    """Training a module on batches from a data source.

    The module always runs in evaluation mode, so dropout and stochastic depth are off: the loss is a function
    of parameters and batch alone. Its buffers, and parameters that do not require a gradient, are constants;
    a module that changes its buffers while it trains, as batch normalisation does, is refused.

    Args:
        factory: Builds the module with fresh parameters from torch's default generator. A module-level
            function or a partial of one, so that the task can be pickled.
        data: Where batches come from; the last element of a batch is the target, the others are the module's
            inputs.
        batch_size: Examples in a batch.
        name: See ``Task``, as for what follows.
        description: One line for people.
        default_steps: Number of steps that makes sense.
        learning_rates: Plausible range for Adam.
        metric: Headline metric.

    Raises:
        ValueError: If the batch size is below 1, or the module changes its buffers.
        TypeError: If ``factory`` is a module instead of what builds one.
    """

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        data: DataSource,
        batch_size: int,
        *,
        name: str,
        description: str,
        default_steps: int,
        learning_rates: tuple[float, float],
        metric: str = "loss",
    ) -> None:
        super().__init__(
            name=name,
            description=description,
            default_steps=default_steps,
            learning_rates=learning_rates,
            metric=metric,
        )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(factory, nn.Module):
            raise TypeError(f"factory must build a module, got the module {type(factory).__name__} itself")
        self.factory = factory
        self.data = data
        self.batch_size = batch_size
        self.module = _build(factory, seed=0).eval()
        frozen = {
            key: value.detach() for key, value in self.module.named_parameters() if not value.requires_grad
        }
        self._constants: dict[str, Tensor] = {**frozen, **dict(self.module.named_buffers())}
        self._refuse_changing_buffers()

    def init(self, generator: torch.Generator) -> Params:
        """Build the module afresh under a seed drawn from the generator and take its trainable parameters."""
        named = _build(self.factory, seed=draw_seed(generator)).named_parameters()
        return {name: parameter.detach() for name, parameter in named if parameter.requires_grad}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw one batch; examples are drawn with replacement."""
        return self.data.draw(generator, (self.batch_size,), split)

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw ``count`` batches with one gather; the same as ``count`` calls of ``batch``."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return self.data.draw(generator, (count, self.batch_size), split)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Mean loss over the batch."""
        *inputs, target = batch
        return self.criterion(self.forward(params, *inputs), target)

    def forward(self, params: Params, *inputs: Tensor) -> Tensor:
        """Return the module's outputs at the given parameters."""
        constants = {key: value.to(inputs[0].device) for key, value in self._constants.items()}
        outputs: Tensor = functional_call(self.module, (params, constants), inputs)
        return outputs

    @abstractmethod
    def criterion(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean loss of outputs against targets."""

    def measure(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Means over the batch that ``evaluate`` reports."""
        return {"loss": self.criterion(outputs, target)}

    @torch.no_grad()
    def evaluate(self, params: Params, *, chunk: int = 1024) -> dict[str, float]:
        """Measure the whole validation split, ``chunk`` examples at a time, on the parameters' device."""
        device = next(iter(params.values())).device
        totals: dict[str, float] = {}
        count = 0
        for batch in self.data.chunks("validation", chunk):
            *inputs, target = (tensor.to(device) for tensor in batch)
            count += len(target)
            for key, mean in self.measure(self.forward(params, *inputs), target).items():
                totals[key] = totals.get(key, 0.0) + float(mean) * len(target)
        return {key: total / count for key, total in totals.items()}

    def _refuse_changing_buffers(self) -> None:
        if next(self.module.buffers(), None) is None:
            return
        training = deepcopy(self.module).train()
        before = {name: buffer.clone() for name, buffer in training.named_buffers()}
        *inputs, _ = self.batch(torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            training(*inputs)
        changed = [name for name, buffer in training.named_buffers() if not torch.equal(buffer, before[name])]
        if changed:
            raise ValueError(
                f"{type(self.module).__name__} changes its buffers while it trains ({', '.join(changed)}), "
                "and a task's loss must be pure: use layer or group normalisation, not batch normalisation"
            )


class ClassificationTask(ModuleTask):
    """Cross-entropy of a module whose outputs are ``[batch, classes]`` logits."""

    def criterion(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy, in nats."""
        return nn.functional.cross_entropy(outputs, target)

    def measure(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy and accuracy in [0, 1]."""
        accuracy = (outputs.argmax(-1) == target).float().mean()
        return {"loss": self.criterion(outputs, target), "accuracy": accuracy}

    def normalise(self, loss: Tensor) -> Tensor:
        """Loss in units of a uniform guess's, ``ln(classes)``, clipped to [0, 1.5]."""
        uniform = math.log(self.data.classes)
        return bounded(loss, 0.0, CLASSIFICATION_CAP * uniform) / uniform


def _build(factory: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Call the factory under a seed and leave torch's default generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory()

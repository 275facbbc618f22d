"""Any ``nn.Module`` as a task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tasks.base import Batch, Params, Split, Task, bounded, draw_seed
from tasks.datasets import DataSource
from tasks.layers import calibrated, has_batch_norm, with_batch_statistics, with_seeded_dropout

CLASSIFICATION_CAP = 1.5
CALIBRATION = 1024
MAX_SEED = 2**31
LAYER_STRIDE = 0x9E3779B1


class ModuleTask(Task):
    """Training a module on batches from a data source.

    The loss is a pure function of parameters and batch, whatever the module holds:

    - Batch normalisation runs on the statistics of its batch. ``evaluate`` runs it on those of 1,024 training
      examples, the same at every call, so that a prediction does not depend on the others.
    - Dropout and stochastic depth are off, unless ``dropout`` is true: then each training batch ends with a
      fresh seed, from which the masks of all ``nn.Dropout`` layers follow. ``evaluate`` never drops.
    - Other buffers, and parameters that do not require a gradient, are constants; a module that changes its
      buffers while it trains in another way than batch normalisation is refused.

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
        higher_is_better: Whether more of it is better.
        dropout: Whether to drop in training.

    Raises:
        ValueError: If the batch size is below 1, the module changes its buffers, or it is to drop and has no
            layer that can.
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
        higher_is_better: bool | None = None,
        dropout: bool = False,
    ) -> None:
        super().__init__(
            name=name,
            description=description,
            default_steps=default_steps,
            learning_rates=learning_rates,
            metric=metric,
            higher_is_better=higher_is_better,
        )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(factory, nn.Module):
            raise TypeError(f"factory must build a module, got the module {type(factory).__name__} itself")
        self.factory = factory
        self.data = data
        self.batch_size = batch_size
        self.module = _build(factory, seed=0).eval()
        self._pure = with_batch_statistics(self.module)
        frozen = {
            key: value.detach() for key, value in self._pure.named_parameters() if not value.requires_grad
        }
        self._constants: dict[str, Tensor] = {**frozen, **dict(self._pure.named_buffers())}
        self._refuse_changing_buffers()
        self._dropping, self._seeds = with_seeded_dropout(self._pure) if dropout else (self._pure, [])

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of what was read from disk, by name."""
        return self.data.checksums

    def init(self, generator: torch.Generator) -> Params:
        """Build the module afresh under a seed drawn from the generator and take its trainable parameters."""
        named = _build(self.factory, seed=draw_seed(generator)).named_parameters()
        return {name: parameter.detach() for name, parameter in named if parameter.requires_grad}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw one batch; examples are drawn with replacement."""
        drawn = self.data.draw(generator, (self.batch_size,), split)
        return (*drawn, torch.randint(MAX_SEED, (), generator=generator)) if self._seeds else drawn

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw ``count`` batches with one gather; the same as ``count`` calls of ``batch``."""
        if count < 1 or self._seeds:
            return super().batches(generator, count, split)
        return self.data.draw(generator, (count, self.batch_size), split)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Mean loss over the batch."""
        seeds: Params = {}
        if self._seeds:
            batch, seed = batch[:-1], batch[-1]
            seeds = {name: seed + layer * LAYER_STRIDE for layer, name in enumerate(self._seeds)}
        *inputs, target = batch
        return self.criterion(self._call(self._dropping, params | seeds, *inputs), target)

    def forward(self, params: Params, *inputs: Tensor) -> Tensor:
        """Return the module's outputs at the given parameters, without dropout."""
        return self._call(self._pure, params, *inputs)

    def _call(self, module: nn.Module, params: Params, *inputs: Tensor) -> Tensor:
        like = next(iter(params.values()))
        constants = {
            key: value.to(like.device, like.dtype if value.is_floating_point() else None)
            for key, value in self._constants.items()
        }
        outputs: Tensor = functional_call(module, (constants, params), inputs)
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
        predict = self._predictor(params, device)
        totals: dict[str, float] = {}
        count = 0
        for batch in self.data.chunks("validation", chunk):
            *inputs, target = (tensor.to(device) for tensor in batch)
            count += len(target)
            for key, mean in self.measure(predict(*inputs), target).items():
                totals[key] = totals.get(key, 0.0) + float(mean) * len(target)
        return {key: total / count for key, total in totals.items()}

    def _predictor(self, params: Params, device: torch.device) -> Callable[..., Tensor]:
        if not has_batch_norm(self.module):
            return partial(self.forward, params)
        *inputs, _ = self.data.draw(torch.Generator().manual_seed(0), (CALIBRATION,), "train")
        return calibrated(self.module, params, tuple(tensor.to(device) for tensor in inputs))

    def _refuse_changing_buffers(self) -> None:
        if next(self._pure.buffers(), None) is None:
            return
        training = deepcopy(self._pure).train()
        before = {name: buffer.clone() for name, buffer in training.named_buffers()}
        *inputs, _ = self.data.draw(torch.Generator().manual_seed(0), (self.batch_size,), "train")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            training(*inputs)
        changed = [name for name, buffer in training.named_buffers() if not torch.equal(buffer, before[name])]
        if changed:
            raise ValueError(
                f"{type(self.module).__name__} changes its buffers while it trains ({', '.join(changed)}), "
                "and a task's loss must be pure"
            )


class ClassificationTask(ModuleTask):
    """Cross-entropy of a module whose outputs are logits ``[B, ..., classes]``, with targets ``[B, ...]``."""

    def criterion(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy, in nats."""
        return nn.functional.cross_entropy(outputs.flatten(0, -2), target.flatten())

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

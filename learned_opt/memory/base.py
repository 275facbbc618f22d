"""What every memory of the gradient history offers the rule."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from learned_opt.layout import Layout

Meta = dict[str, Tensor]


class Readout(NamedTuple):
    """What a memory gives back for every parameter.

    Attributes:
        first: ``K`` averages of the gradient, ``[K, N]``, in units of the gradient. Row 0 starts as Adam's
            bias-corrected first moment.
        second: Average of the squared gradient, ``[N]``, which starts as Adam's second moment.
    """

    first: Tensor
    second: Tensor


class TimeScale(NamedTuple):
    """One component of a memory.

    Attributes:
        name: For people.
        half_life: Steps in which its weight halves.
        frequency: Cycles per step; None where it does not oscillate.
    """

    name: str
    half_life: float
    frequency: float | None = None


class Memory(Protocol):
    """A causal summary of each parameter's gradients in a fixed number of floats."""

    @property
    def floats_per_parameter(self) -> int:
        """Rows ``S`` of the state, of which the last is the second moment."""
        ...

    @property
    def heads(self) -> int:
        """Averages ``K`` that a read gives."""
        ...

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """The meta-parameters at which row 0 and the second moment are Adam's.

        Args:
            dtype: Of the meta-parameters.
            generator: Draws whatever starts at random; one with seed 0 by default.
        """
        ...

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient.

        Args:
            meta: The memory's meta-parameters.
            state: ``[S, N]``, zero before the first gradient.
            grad: ``[N]``, finite.
            step: Gradients seen including this one, ``[columns]``, at least 1.
            live: 1 where the column's gradient counts, 0 where its state must stay as it is, ``[columns]``.
            layout: Which elements belong to which column.

        Returns:
            The next state, same shape and dtype.
        """
        ...

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """Read the averages after at least one `advance`, with the step and layout of the last one."""
        ...

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Steady-state weight of the gradient ``lag`` steps ago in each average, ``[K, L]``.

        Where it depends on the gradients it is their mean response; see `learned_opt.memory.response`.
        """
        ...

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """Half-lives and frequencies of all that the memory averages with."""
        ...

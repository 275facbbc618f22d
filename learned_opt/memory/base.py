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


class Memory(Protocol):
    """A causal summary of each parameter's gradients in a fixed number of floats."""

    @property
    def floats_per_parameter(self) -> int:
        """Rows ``S`` of the state."""
        ...

    @property
    def heads(self) -> int:
        """Averages ``K`` that a read gives."""
        ...

    def init_meta(self, dtype: torch.dtype) -> Meta:
        """The meta-parameters at which the memory holds Adam's moments."""
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

    def read(self, meta: Meta, state: Tensor) -> Readout:
        """Read the averages after at least one `advance`."""
        ...

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Steady-state weight of the gradient ``lag`` steps ago in each average, ``[K, L]``."""
        ...

"""Many tensors as one flat vector, with reductions over each tensor."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from learned_opt.sharding import Sharding


class Layout:
    """Where each of ``n`` tensors lies in the flat vector of all their ``N`` elements.

    Args:
        shapes: Shape of each tensor, in order.
        pooled: Count steps and skip non-finite gradients for all tensors together: meta-training uses it,
            since there a task is skipped as a whole.
        sharding: Where the tensors are parts of larger ones: reductions are then over the whole tensors.

    Attributes:
        sizes: Elements of each tensor.
        columns: Columns of a table of steps: one a tensor, or one in all when pooled.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], *, pooled: bool = False, sharding: Sharding | None = None
    ) -> None:
        self.shapes = tuple(shapes)
        self.pooled = pooled
        self.sharding = sharding
        self.whole_shapes = sharding.shapes if sharding else self.shapes
        self.offsets = sharding.offsets if sharding else tuple((0,) * len(shape) for shape in self.shapes)
        self.sizes = tuple(prod(shape) for shape in self.shapes)
        self.columns = 1 if pooled else len(self.shapes)
        self._owner: dict[torch.device, Tensor] = {}

    @classmethod
    def of(
        cls, tensors: Sequence[Tensor], *, pooled: bool = False, sharding: Sharding | None = None
    ) -> "Layout":
        """The layout of these tensors, in their order."""
        return cls([tuple(tensor.shape) for tensor in tensors], pooled=pooled, sharding=sharding)

    def of_some(self, members: Sequence[int]) -> "Layout":
        """The layout of some of the tensors, by their places."""
        sharding = self.sharding.of_some(members) if self.sharding else None
        return Layout([self.shapes[index] for index in members], pooled=self.pooled, sharding=sharding)

    def flatten(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Concatenate to ``[N]`` in ``dtype``."""
        flat = [tensor.reshape(-1).to(dtype) for tensor in tensors]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut ``[..., N]`` into views ``[..., *shape]``, one a tensor."""
        pieces = flat.split_with_sizes(self.sizes, dim=-1)
        return [
            piece.reshape((*piece.shape[:-1], *shape))
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def spread(self, table: Tensor) -> Tensor:
        """Give every element its tensor's column: ``[..., n]`` to ``[..., N]``; one column stays one."""
        if table.shape[-1] == 1:
            return table
        if not torch.compiler.is_compiling():
            return table.index_select(-1, self._owners(table.device))
        columns = zip(table.split_with_sizes([1] * table.shape[-1], dim=-1), self.sizes, strict=True)
        return torch.cat([column.expand(*column.shape[:-1], size) for column, size in columns], dim=-1)

    def _owners(self, device: torch.device) -> Tensor:
        """Which tensor each element is of, ``[N]``.

        It is kept with the layout alone: made within a transform of `torch.func`, in inference mode or of
        fake tensors, it is of no use outside.
        """
        if device not in self._owner:
            numbers = torch.arange(len(self.sizes), device=device).unbind()
            parts = (number.expand(size) for number, size in zip(numbers, self.sizes, strict=True))
            self._owner[device] = torch.cat(list(parts))
        return self._owner[device]

    def mean(self, flat: Tensor) -> Tensor:
        """Mean over each tensor, ``[..., N]`` to ``[..., n]``; an empty tensor has mean 0."""
        if self.sharding is None:
            return self._reduce(flat, lambda piece: piece.mean(-1) if piece.shape[-1] else piece.sum(-1))
        counts = [max(prod(shape), 1) for shape in self.whole_shapes]
        return self.sharding.total(self._sum(flat)) / torch.tensor(counts, device=flat.device)

    def sum_of_columns(self, flat: Tensor) -> Tensor:
        """Sum over the elements of each column, ``[..., N]`` to ``[..., columns]``."""
        if self.pooled:
            return flat.sum(-1, keepdim=True)
        return self.sharding.total(self._sum(flat)) if self.sharding else self._sum(flat)

    def factored_mean(self, flat: Tensor) -> Tensor:
        """Replace ``[N]`` by its rank-one estimate, row mean x column mean / mean of each tensor.

        The first axis counts as rows and the rest as columns; a vector or scalar is replaced by its mean.

        References:
            Shazeer and Stern, Adafactor, 2018, section 3, https://arxiv.org/abs/1804.04235
        """
        tiny = torch.finfo(flat.dtype).tiny
        means = self.mean(flat).unbind(-1)
        pieces = [mean.expand(size) for mean, size in zip(means, self.sizes, strict=True)]
        matrices = {
            index: tensor.reshape(len(tensor), prod(tensor.shape[1:]))
            for index, tensor in enumerate(self.split(flat))
            if tensor.ndim > 1
        }
        rows, columns = self._row_sums(matrices), self._column_sums(matrices)
        for index, row, column in zip(matrices, rows, columns, strict=True):
            height, width = self.whole_shapes[index][0], prod(self.whole_shapes[index][1:])
            row_mean, column_mean = row[:, None] / max(width, 1), column / max(height, 1)
            pieces[index] = (row_mean * (column_mean / (means[index] + tiny))).reshape(-1)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _row_sums(self, matrices: dict[int, Tensor]) -> list[Tensor]:
        sums = [matrix.sum(1) for matrix in matrices.values()]
        return self._together(sums, self.sharding.over_columns) if self.sharding else sums

    def _column_sums(self, matrices: dict[int, Tensor]) -> list[Tensor]:
        sums = [matrix.sum(0) for matrix in matrices.values()]
        return self._together(sums, self.sharding.over_rows) if self.sharding else sums

    @staticmethod
    def _together(sums: list[Tensor], add: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return list(add(torch.cat(sums)).split_with_sizes([len(each) for each in sums])) if sums else []

    def _sum(self, flat: Tensor) -> Tensor:
        return self._reduce(flat, lambda piece: piece.sum(-1))

    def _reduce(self, flat: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([reduce(piece) for piece in flat.split_with_sizes(self.sizes, dim=-1)], dim=-1)

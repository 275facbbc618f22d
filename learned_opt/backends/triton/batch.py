"""The tensors that kernels take together, and the kernels that take them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from learned_opt.backends.in_place import Move
from learned_opt.backends.recipe import Sizes
from learned_opt.backends.triton import geometry, measuring, passes, sums
from learned_opt.backends.triton.numbers import Numbers
from learned_opt.backends.triton.tables import Sent, Table, row_of
from learned_opt.state import STATISTICS

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
WARPS = 4


class Launch(NamedTuple):
    """A kernel, how many programs of it, and what they are given by name."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]


class Kind(NamedTuple):
    """What the tensors of a batch have in common."""

    device: torch.device
    param: torch.dtype
    grad: torch.dtype
    state: torch.dtype
    delayed: bool

    @classmethod
    def of(cls, move: Move) -> "Kind":
        """The kind of a tensor."""
        param, grad, state = move.param, move.grad, move.state
        return cls(param.device, param.dtype, grad.dtype, state["memory"].dtype, STATISTICS in state)


class Batch:
    """Tensors of one kind and of known shapes.

    What depends on the shapes alone is sent to the device when it is made; where the tensors are, when that
    changes: gradients seldom stay where they are.

    Args:
        kind: Of the tensors.
        shapes: Of each.
        sizes: Of the rule.
    """

    def __init__(self, kind: Kind, shapes: Sequence[tuple[int, ...]], sizes: Sizes) -> None:
        self.kind, self.sizes = kind, sizes
        self.geometry = geometry.cut(shapes, sizes, delayed=kind.delayed)
        places = torch.tensor(self.geometry.places, dtype=torch.int64).reshape(-1)
        owners = (self.geometry.patch_owners, self.geometry.tile_owners, self.geometry.fold_owners)
        tables = [places, *(torch.tensor(each, dtype=torch.int32) for each in owners)]
        self._sent = [Sent(table, kind.device) for table in tables]
        self._table: Table | None = None

    def table(self, moves: Sequence[Move], *, keep: bool = True) -> Table:
        """Where these tensors are: what was sent for an earlier step, if it still holds.

        Args:
            moves: The tensors.
            keep: What is sent now, for later steps; not where a graph captures it, as it is not sent yet.
        """
        rows = tuple(row_of(move) for move in moves)
        if self._table is not None and self._table.rows == rows:
            return self._table
        table = Table(rows, self.kind.device)
        if keep:
            self._table = table
        return table

    def launches(self, numbers: Numbers, table: Table, options: Tensor) -> Iterator[Launch]:
        """The kernels of a step, in their order; see `learned_opt.backends.triton.passes`."""
        delayed, tensors = self.kind.delayed, len(self.geometry.places)
        places, patch_owners, tile_owners, fold_owners = (sent.target for sent in self._sent)
        floats = self.geometry.workspace
        given = {
            "addresses": table.addresses,
            "settings": options,
            "places": places,
            "owners": tile_owners,
            "workspace": torch.empty(floats, dtype=torch.float32, device=self.kind.device),
            "hidden": (
                numbers.tensor_inputs,
                numbers.progress_inputs,
                numbers.shape_inputs,
                numbers.bias,
            ),
            "weights": (numbers.inputs, numbers.learned, numbers.outputs, numbers.output_bias),
            "second_rate": numbers.rates[self.sizes.averages],
            "rates": numbers.rates,
            "turns": numbers.turns,
            "mixture": numbers.mixture,
            "exponents": (numbers.exponents, numbers.vector_exponents, numbers.shape_gain),
            "schedule": numbers.schedule,
            "epsilon": numbers.epsilon,
            **self._constants(numbers.scale),
        }

        def launch(kernel: Any, programs: int, **others: Any) -> Launch:
            known = {**given, **others}
            return Launch(kernel, programs, {name: known[name] for name in kernel.arg_names})

        tiles = len(self.geometry.tile_owners)
        if geometry.measured(self.sizes, delayed=delayed):
            yield launch(measuring.measure, len(self.geometry.patch_owners), owners=patch_owners)
        else:
            yield launch(measuring.find_finite, tiles)
        yield launch(sums.after_measure, len(self.geometry.fold_owners), owners=fold_owners)
        if not delayed:
            yield launch(passes.ratio_squares, tiles)
            yield launch(sums.after_ratios, tensors)
        yield launch(passes.directions, tiles, BLOCK=geometry.BLOCK)
        yield launch(sums.after_directions, tensors)
        if not delayed:
            yield launch(passes.apply, tiles)

    def _constants(self, scale: int) -> dict[str, Any]:
        """What kernels are specialised to."""
        param, grad, state = (TYPES[each] for each in self.kind[1:4])
        heads, averages, waves, mixing, mixed, hidden, learned, progress, shapes, factored, relu = self.sizes
        height, wide = geometry.PATCH
        narrow_height, narrow_wide = geometry.NARROW_PATCH
        return {
            "PARAM_TYPE": param,
            "GRAD_TYPE": grad,
            "STATE_TYPE": state,
            "HEADS": heads,
            "AVERAGES": averages,
            "WAVES": waves,
            "MIXING": mixing,
            "MIXED": mixed,
            "HIDDEN": hidden,
            "LEARNED": learned,
            "PROGRESS": progress,
            "SHAPES": shapes,
            "FACTORED": bool(factored),
            "RELU": bool(relu),
            "SCALE": scale,
            "DELAYED": self.kind.delayed,
            "SUMS": geometry.sums_of(self.sizes, delayed=self.kind.delayed),
            "FOUND": geometry.statistics_of(self.sizes),
            "TILE": geometry.TILE,
            "BLOCK": geometry.LIGHT_BLOCK,
            "FOLD": geometry.FOLD,
            "HEIGHT": height,
            "HIGH": geometry.HIGH,
            "WIDE": wide,
            "NARROW_BELOW": geometry.NARROW_BELOW,
            "NARROW_HEIGHT": narrow_height,
            "NARROW_HIGH": geometry.NARROW_HIGH,
            "NARROW_WIDE": narrow_wide,
        }

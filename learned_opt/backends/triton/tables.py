"""Where the tensors of a batch are and what is asked of them, as a table on their device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.backends.in_place import Move
from learned_opt.state import STATISTICS
from learned_opt.tokens import features_of_shape


class Address(NamedTuple):
    """A tensor's row in the table of addresses, int64.

    Attributes:
        param: Of the parameter.
        grad: Of its gradient.
        memory: Of its memory.
        step: Of its count of steps.
        skipped: Of its count of gradients that did not count.
        statistics: Of those that are kept for the next step, or 0.
        direction: Of where its direction goes, or 0.
        none: 0; rows are 64 bytes long.
    """

    param: int
    grad: int
    memory: int
    step: int
    skipped: int
    statistics: int
    direction: int
    none: int = 0


class Option(NamedTuple):
    """A tensor's row in the table of options, float32: as in `Move`, then `features_of_shape`.

    A rate that is on the device is 0. The last makes rows of whole words of 64 bits.
    """

    sign: float
    lr: float
    weight_decay: float
    total_steps: float
    log_gain: float
    vector: float
    extent: float
    none: float = 0.0


class Sent:
    """A tensor on its way to a device, in one copy that nothing waits for.

    Attributes:
        source: Where it comes from, in pinned memory. Who captures the copy into a graph must keep it.
        target: On the device.
    """

    def __init__(self, source: Tensor, device: torch.device) -> None:
        self.source = source.pin_memory() if device.type == "cuda" else source
        self.target = self.source.to(device, non_blocking=True)


class Table:
    """Addresses and options of the tensors of a batch.

    It never changes, so that what is under way, or captured into a graph, finds what it was given.

    Attributes:
        rows: What it was made of.
        addresses: ``[tensors, 8]``, int64, flat.
    """

    def __init__(self, rows: tuple[tuple[Address, Option], ...], device: torch.device) -> None:
        self.rows = rows
        numbers = torch.tensor([list(address) for address, _ in rows], dtype=torch.int64)
        floats = torch.tensor([list(option) for _, option in rows], dtype=torch.float32)
        self._sent = Sent(torch.cat([numbers.reshape(-1), floats.reshape(-1).view(torch.int64)]), device)
        self.addresses = self._sent.target[: numbers.numel()]
        self._options = self._sent.target[numbers.numel() :].view(torch.float32)

    def options(self, moves: Sequence[Move]) -> Tensor:
        """Options, ``[tensors, 8]``, float32, flat; with rates that are on the device as they are by now."""
        rates = [_on_device(move) for move in moves]
        if not any(rate is not None for rate in rates):
            return self._options
        options = self._options.reshape(len(moves), -1).clone()
        zero = options.new_zeros(())
        column = [zero if rate is None else rate.to(zero).reshape(()) for rate in rates]
        options[:, Option._fields.index("lr")] += torch.stack(column)
        return options.reshape(-1)


def row_of(move: Move) -> tuple[Address, Option]:
    """What the table holds of a tensor."""
    state, output = move.state, move.direction
    kept = state.get(STATISTICS)
    address = Address(
        move.param.data_ptr(),
        move.grad.data_ptr(),
        state["memory"].data_ptr(),
        state["step"].data_ptr(),
        state["skipped"].data_ptr(),
        0 if kept is None else kept.data_ptr(),
        0 if output is None else output.data_ptr(),
    )
    rate = 0.0 if _on_device(move) is not None else float(move.lr)
    shape = features_of_shape(move.param.shape)
    return address, Option(move.sign, rate, move.weight_decay, move.total_steps, move.log_gain, *shape)


def _on_device(move: Move) -> Tensor | None:
    lr = move.lr
    return lr if isinstance(lr, Tensor) and lr.device.type == move.param.device.type else None

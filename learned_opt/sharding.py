"""Tensors cut over processes: what each holds, and sums over the whole of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Placement, _StridedShard

CUT = (Shard, _StridedShard)


@dataclass(frozen=True)
class Sharding:
    """How some tensors are cut over a mesh of processes, all in one way.

    Attributes:
        mesh: The processes.
        placements: For each axis of the mesh, which axis of the tensors it cuts, if any.
        shapes: Shape of each whole tensor.
        offsets: Where this process's part of each begins, along every axis of the tensor.
    """

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, params: Sequence[Tensor]) -> "Sharding | None":
        """The sharding of parameters that `sharding_key` does not tell apart; None if they are not cut."""
        first = params[0]
        if not isinstance(first, DTensor):
            return None
        mesh, placements = first.device_mesh, tuple(first.placements)
        shapes = tuple(tuple(param.shape) for param in params)
        return cls(mesh, placements, shapes, tuple(_offset(shape, mesh, placements) for shape in shapes))

    def of_some(self, members: Sequence[int]) -> "Sharding":
        """That of some of the tensors, by their places."""
        shapes, offsets = (tuple(each[index] for index in members) for each in (self.shapes, self.offsets))
        return replace(self, shapes=shapes, offsets=offsets)

    def total(self, sums: Tensor) -> Tensor:
        """Add what every process found in its part of the tensors."""
        return self._add(sums, lambda axis: True)

    def over_rows(self, sums: Tensor) -> Tensor:
        """Add over the processes that hold other rows (positions along axis 0) of the same columns."""
        return self._add(sums, lambda axis: axis == 0)

    def over_columns(self, sums: Tensor) -> Tensor:
        """Add over the processes that hold other columns (the other axes) of the same rows."""
        return self._add(sums, lambda axis: axis > 0)

    def _add(self, sums: Tensor, wanted: Callable[[int], bool]) -> Tensor:
        for axis, placement in enumerate(self.placements):
            if isinstance(placement, CUT) and wanted(placement.dim):
                sums = sums.contiguous().clone()
                torch.distributed.all_reduce(sums, group=self.mesh.get_group(axis))
        return sums


@lru_cache(maxsize=4096)
def _offset(shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Placement, ...]) -> tuple[int, ...]:
    return tuple(compute_local_shape_and_global_offset(shape, mesh, placements)[1])


def sharding_key(param: Tensor) -> tuple[Any, ...]:
    """Equal for parameters that may be updated in one pass: one device, cut in one way."""
    if isinstance(param, DTensor):
        return param.device, param.device_mesh, tuple(param.placements)
    return (param.device,)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: of a plain tensor, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_grad(param: Tensor, grad: Tensor) -> Tensor:
    """This process's part of the gradient, cut as the parameter is."""
    if isinstance(param, DTensor) and isinstance(grad, DTensor) and grad.placements != param.placements:
        grad = grad.redistribute(param.device_mesh, param.placements)
    return local(grad)


def stacked_like(param: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Zeros ``[rows, *shape]``, cut as the parameter is."""
    if not isinstance(param, DTensor):
        return torch.zeros((rows, *param.shape), dtype=dtype, device=param.device)
    part = torch.zeros((rows, *local(param).shape), dtype=dtype, device=local(param).device)
    shape = torch.Size((rows, *param.shape))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part, param.device_mesh, _beside(param), run_check=False, shape=shape, stride=stride
    )


def laid_like(tensor: Tensor, param: Tensor) -> Tensor:
    """A whole or otherwise cut ``[rows, *shape]``, cut as the parameter is."""
    if not isinstance(param, DTensor):
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if isinstance(tensor, DTensor):
        return tensor.redistribute(param.device_mesh, _beside(param))
    return distribute_tensor(tensor, param.device_mesh, _beside(param), src_data_rank=None)


def whole(part: Tensor, like: Tensor) -> Tensor:
    """Gather a tensor from the parts that the processes hold, cut as a parameter is."""
    if not isinstance(like, DTensor):
        return part
    gathered = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return gathered.full_tensor()


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all hold whole, cut as a parameter is."""
    if not isinstance(like, DTensor):
        return tensor
    return local(distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None))


def _beside(param: DTensor) -> list[Placement]:
    """Placements of ``[rows, *shape]``: the rows are not cut, everything else as the parameter."""
    moved: list[Placement] = []
    for placement in param.placements:
        if isinstance(placement, Shard):
            moved.append(Shard(placement.dim + 1))
        elif isinstance(placement, _StridedShard):
            moved.append(_StridedShard(placement.dim + 1, split_factor=placement.split_factor))
        elif isinstance(placement, Replicate):
            moved.append(placement)
        else:
            raise ValueError(
                f"a parameter of shape {tuple(param.shape)} is placed as {placement}; "
                "expected Shard or Replicate"
            )
    return moved

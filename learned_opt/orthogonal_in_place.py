"""Directions made orthogonal over themselves, where autograd does not look on."""

import torch
from torch import Tensor

from learned_opt.orthogonal import COEFFICIENTS, STEPS, Shaping, dtype_of_products, orthogonalize, weights

CHUNK = 2**17
"""Elements that are tempered at a time."""
ROWS = 64
"""Of a wide matrix that are transposed at a time."""


def shape_in_place(shaping: Shaping, direction: Tensor, second: Tensor) -> None:
    """Overwrite a direction with what a `Shaping` makes of it.

    Where products are taken in bfloat16, it needs memory for half of the direction and for a square of its
    shorter side.

    Args:
        shaping: What to do.
        direction: Contiguous; a vector or scalar is left as it is.
        second: The second moment of each element.
    """
    if direction.ndim < 2 or direction.numel() == 0:
        return
    norm = shaping.norm(direction)
    if shaping.exponent is not None:
        _temper(direction, second, shaping.exponent)
    matrix = direction.view(len(direction), -1)
    if dtype_of_products(matrix) is matrix.dtype:
        direction.copy_(orthogonalize(direction, norm=norm))
        return
    _orthogonalize_in_bfloat16(matrix)
    direction.mul_(norm / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny))


def _temper(direction: Tensor, second: Tensor, exponent: Tensor) -> None:
    """As `learned_opt.orthogonal.tempered`, a piece at a time."""
    tiny = torch.finfo(direction.dtype).tiny
    most = second.amax().to(direction.dtype).clamp_min(tiny)
    pieces = torch.split(direction.view(-1), CHUNK), torch.split(second.reshape(-1), CHUNK)
    for piece, each in zip(*pieces, strict=True):
        piece.mul_(weights(each.to(piece.dtype), most, exponent))


def _orthogonalize_in_bfloat16(matrix: Tensor) -> None:
    """The iterations of `learned_opt.orthogonal.orthogonalize` on the transposed of a wide matrix.

    They go to and fro between new memory and one half of the matrix's own, whose other half takes products.
    """
    (rows, columns), size = matrix.shape, matrix.numel()
    short = min(rows, columns)
    matrix.div_(matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny))
    here = torch.empty(size // short, short, dtype=torch.bfloat16, device=matrix.device)
    if rows >= columns:
        here.copy_(matrix)
    else:
        for piece, turned in zip(torch.split(matrix, ROWS), torch.split(here, ROWS, 1), strict=True):
            turned.copy_(piece.to(here.dtype).mT)  # both at once would be five times slower
    own = matrix.view(-1).view(torch.bfloat16)
    there, gram = own[:size].view_as(here), own[size : size + short**2].view(short, short)
    power = torch.empty_like(gram)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        torch.mm(here.mT, here, out=gram)
        torch.addmm(gram, gram, gram, beta=b, alpha=c, out=power)
        torch.addmm(here, here, power, beta=a, out=there)
        here, there = there, here
    if here.data_ptr() == matrix.data_ptr():  # what is read below must not be what is written
        here = there.copy_(here)
    matrix.copy_(here if rows >= columns else here.mT)

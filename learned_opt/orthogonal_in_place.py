"""Directions made orthogonal over themselves, where autograd does not look on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.orthogonal import (
    LEAST_SIDE,
    POLYNOMIALS,
    Polynomial,
    Shaping,
    dtype_of_products,
    largest,
    orthogonalize,
    weights,
)

CHUNK = 2**15
"""Elements that are tempered, or change their dtype, at a time on a CPU; on a GPU, where each piece takes
launches, all at once."""
LONG = 2
"""Times the shorter side from which iterations are taken in runs, which need fewer products then."""
PANEL = 192
"""Rows at a time, on a CPU, of a product that is symmetric: each panel leaves out what the ones before have,
mirrored, which of 768 rows is three eighths of the work."""
LONGEST_RUN = 3
"""Iterations. In bfloat16 one run of 5 of Muon's would be off by a third where singular values range over
four decades; runs of 3 are as exact as iterations one by one. In other dtypes so are 3 alone: where more
follow, what the first run lost is enlarged tenfold."""


def shape_in_place(shaping: Shaping, direction: Tensor, second: Tensor) -> None:
    """Overwrite a direction with what a `Shaping` makes of it.

    It needs memory for two squares of the direction's shorter side; and for another direction, where products
    are not taken in bfloat16.

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
    if min(matrix.shape) < LEAST_SIDE:
        direction.copy_(orthogonalize(direction, iterations=shaping.iterations, norm=norm))
        return
    if dtype_of_products(matrix) is matrix.dtype:
        _orthogonalize(matrix, POLYNOMIALS[shaping.iterations])
    else:
        _orthogonalize_in_bfloat16(matrix, POLYNOMIALS[shaping.iterations])
    direction.mul_(norm / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny))


def _temper(direction: Tensor, second: Tensor, exponent: Tensor) -> None:
    """As `learned_opt.orthogonal.tempered`, a piece at a time."""
    tiny = torch.finfo(direction.dtype).tiny
    most = second.amax().to(direction.dtype).clamp_min(tiny)
    for piece, each in zip(_pieces(direction.view(-1)), _pieces(second.reshape(-1)), strict=True):
        piece.mul_(weights(each.to(piece.dtype), most, exponent))


def _pieces(flat: Tensor) -> tuple[Tensor, ...]:
    """Of one axis."""
    return torch.split(flat, CHUNK if flat.device.type == "cpu" else len(flat))


def _orthogonalize(matrix: Tensor, polynomials: Sequence[Polynomial]) -> None:
    """The iterations of `learned_opt.orthogonal.orthogonalize`, on the transposed of a wide matrix.

    They go to and fro between the matrix and a copy of it.
    """
    _normalise(matrix)
    wide = matrix.shape[0] < matrix.shape[1]
    here = matrix.mT.contiguous() if wide else matrix.clone()
    there = matrix.view(here.shape)
    if _iterated(here, there, polynomials, runs=len(polynomials) <= LONGEST_RUN) is there:
        here.copy_(there)
    matrix.copy_(here.mT if wide else here)


def _orthogonalize_in_bfloat16(matrix: Tensor, polynomials: Sequence[Polynomial]) -> None:
    """The same with products in bfloat16.

    They go to and fro between the two halves of the matrix's own memory, each of which holds it in bfloat16.
    """
    _normalise(matrix)
    (rows, columns), size = matrix.shape, matrix.numel()
    short, wide = min(rows, columns), rows < columns
    flat = matrix.view(-1)
    first, second = flat.view(torch.bfloat16).view(2, size)
    for narrow, piece in zip(_pieces(first), _pieces(flat), strict=True):
        narrow.copy_(piece.bfloat16())  # in new memory, as they overlap; later pieces are not yet overwritten
    tall = torch.Size((size // short, short))
    here, there = first.view(tall), second.view(tall)
    if wide:
        there.copy_(first.view(rows, columns).mT)
        here, there = there, here
    found = _iterated(here, there, polynomials, runs=True)
    if found is there:
        here, there = there, here
    if wide:
        there.view(rows, columns).copy_(here.mT)
        here, there = there, here
    if here.data_ptr() != second.data_ptr():
        second.copy_(here.view(-1))
    for piece, narrow in zip(_pieces(flat), _pieces(second), strict=True):
        piece.copy_(narrow.float())


def _normalise(matrix: Tensor) -> None:
    """Divide by the Frobenius norm."""
    matrix.div_(largest(matrix))
    matrix.div_(matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny))


def _iterated(here: Tensor, there: Tensor, polynomials: Sequence[Polynomial], *, runs: bool) -> Tensor:
    """Iterate to and fro between a tall matrix and another of its shape; gives the one that is the last."""
    length, short = here.shape
    squares = here.new_empty(2, short, short)
    run = LONGEST_RUN if runs and length >= LONG * short else 1
    for first_of_run in range(0, len(polynomials), run):
        _iterate(here, there, squares, polynomials[first_of_run : first_of_run + run])
        here, there = there, here
    return here


def _iterate(here: Tensor, there: Tensor, squares: Tensor, polynomials: Sequence[Polynomial]) -> None:
    """Some iterations in a row, with two products of the long matrix in all.

    Each multiplies the matrix from the right by a polynomial of its Gram matrix, and the Gram matrix from
    both sides by the same; so several come to one factor. What rounding does to the Gram matrix adds up
    meanwhile, which is why all iterations are not one run.

    Args:
        here: The matrix, ``[L, n]``.
        there: Where the result goes, likewise; with more than one iteration, ``L`` is at least ``2 n``.
        squares: Room, ``[2, n, n]``.
        polynomials: One for each iteration.

    References:
        Zhang, Amsel, Chen and Dao, Gram Newton-Schulz, 2026, https://dao-lab.ai/blog/2026/gram-newton-schulz
    """
    (a, b, c), *rest = polynomials
    gram, power = there.view(-1)[: squares.numel()].view_as(squares) if rest else squares
    _symmetric(gram, here.mT, here, beta=0, out=gram)
    _symmetric(gram, gram, gram, beta=b, alpha=c, out=power)
    if not rest:
        torch.addmm(here, here, power, beta=a, out=there)
        return
    factor, spare = squares
    factor.copy_(power).diagonal().add_(a)
    for next_a, b, c in rest:
        _symmetric(gram, gram, power, beta=a, out=spare)
        _symmetric(spare, spare, power, beta=a, out=gram)
        a = next_a
        _symmetric(gram, gram, gram, beta=b, alpha=c, out=power)
        _symmetric(factor, factor, power, beta=a, out=spare)
        factor, spare = spare, factor
    torch.mm(here, factor, out=there)


def _symmetric(
    summand: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float = 1.0, out: Tensor
) -> None:
    """``beta summand + alpha left @ right`` where that is symmetric, but for rounding.

    Args:
        summand: ``[n, n]``, symmetric; not read where ``beta`` is 0.
        left: ``[n, k]``.
        right: ``[k, n]``.
        beta: Of the summand.
        alpha: Of the product.
        out: Where it goes, ``[n, n]``; shares memory with a factor in no case.
    """
    size = len(out)
    panel = PANEL if out.device.type == "cpu" else size
    for begin in range(0, size, panel):
        rows, rest = slice(begin, begin + panel), slice(begin, None)
        found = out[rows, rest]
        torch.addmm(summand[rows, rest], left[rows], right[:, rest], beta=beta, alpha=alpha, out=found)
        out[begin + panel :, rows].copy_(found[:, panel:].mT)

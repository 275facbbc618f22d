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
    iterated,
    largest,
    multiply_add,
    norms,
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


def shape_in_place(shaping: Shaping, directions: Sequence[Tensor], seconds: Sequence[Tensor]) -> None:
    """Overwrite directions of one shape with what a `Shaping` makes of them.

    Several are taken together, as a stack, in new memory for them and, with an exponent, their second
    moments. One alone needs memory for two squares of its shorter side; and for another direction, where
    products are not taken in bfloat16.

    Args:
        shaping: What to do.
        directions: Contiguous, of one dtype and device; vectors and scalars are left as they are.
        seconds: The second moment of each element, likewise; without an exponent they are not looked at.
    """
    shape = directions[0].shape
    if len(shape) < 2 or not shape.numel():
        return
    if len(directions) == 1:
        _shape(shaping, directions[0].view(shape[0], -1), seconds)
        return
    stack = torch.stack(list(directions)).flatten(2)
    _shape(shaping, stack, seconds)
    torch._foreach_copy_(list(directions), list(stack.view(-1, *shape).unbind()))


def gains_from_stacks(direction: Tensor) -> bool:
    """Whether directions like this one are sooner shaped together: where beginning a product takes long."""
    return direction.device.type != "cpu" or min(len(direction), direction[:1].numel()) < LEAST_SIDE


def _shape(shaping: Shaping, matrices: Tensor, seconds: Sequence[Tensor]) -> None:
    norm, polynomials = shaping.norm(matrices), POLYNOMIALS[shaping.iterations]
    if shaping.exponent is not None:
        second = seconds[0] if len(seconds) == 1 else torch.stack(list(seconds))
        _temper(matrices, second.reshape(matrices.shape), shaping.exponent)
    if min(matrices.shape[-2:]) < LEAST_SIDE:
        matrices.copy_(iterated(matrices, polynomials, norm))
        return
    if dtype_of_products(matrices) is matrices.dtype:
        _orthogonalize(matrices, polynomials)
    else:
        _orthogonalize_in_bfloat16(matrices, polynomials)
    matrices.mul_(norm / norms(matrices).clamp_min(torch.finfo(matrices.dtype).tiny))


def _temper(matrices: Tensor, second: Tensor, exponent: Tensor) -> None:
    """As `learned_opt.orthogonal.tempered`, a piece at a time."""
    tiny = torch.finfo(matrices.dtype).tiny
    most = second.amax(dim=(-2, -1), keepdim=True).to(matrices.dtype).clamp_min(tiny).flatten(-2)
    for piece, each in zip(_pieces(matrices.flatten(-2)), _pieces(second.flatten(-2)), strict=True):
        piece.mul_(weights(each.to(piece.dtype), most, exponent))


def _pieces(flat: Tensor) -> tuple[Tensor, ...]:
    """Of the last axis."""
    return torch.split(flat, CHUNK if flat.device.type == "cpu" else flat.shape[-1], dim=-1)


def _orthogonalize(matrices: Tensor, polynomials: Sequence[Polynomial]) -> None:
    """The iterations of `learned_opt.orthogonal.orthogonalize`, on wide matrices transposed.

    They go to and fro between the matrices and a copy of them.
    """
    _normalise(matrices)
    wide = matrices.shape[-2] < matrices.shape[-1]
    here = matrices.mT.contiguous() if wide else matrices.clone()
    there = matrices.view(here.shape)
    if _iterated(here, there, polynomials, runs=len(polynomials) <= LONGEST_RUN) is there:
        here.copy_(there)
    matrices.copy_(here.mT if wide else here)


def _orthogonalize_in_bfloat16(matrices: Tensor, polynomials: Sequence[Polynomial]) -> None:
    """The same with products in bfloat16.

    They go to and fro between the two halves of each matrix's own memory, which hold it in bfloat16.
    """
    _normalise(matrices)
    *stack, rows, columns = matrices.shape
    short, wide = min(rows, columns), rows < columns
    flat = matrices.flatten(-2)
    first, second = flat.view(torch.bfloat16).view(*stack, 2, -1).unbind(-2)
    for narrow, piece in zip(_pieces(first), _pieces(flat), strict=True):
        narrow.copy_(piece.bfloat16())  # in new memory, as they overlap; later pieces are not yet overwritten
    tall = (*stack, rows * columns // short, short)
    here, there = first.view(tall), second.view(tall)
    if wide:
        there.copy_(first.view(matrices.shape).mT)
        here, there = there, here
    found = _iterated(here, there, polynomials, runs=True)
    if found is there:
        here, there = there, here
    if wide:
        there.view(matrices.shape).copy_(here.mT)
        here, there = there, here
    if here.data_ptr() != second.data_ptr():
        second.copy_(here.flatten(-2))
    for piece, narrow in zip(_pieces(flat), _pieces(second), strict=True):
        piece.copy_(narrow.float())


def _normalise(matrices: Tensor) -> None:
    """Divide by the Frobenius norms."""
    matrices.div_(largest(matrices))
    matrices.div_(norms(matrices).clamp_min(torch.finfo(matrices.dtype).tiny))


def _iterated(here: Tensor, there: Tensor, polynomials: Sequence[Polynomial], *, runs: bool) -> Tensor:
    """Iterate to and fro between tall matrices and others of their shape; gives those that are the last."""
    *stack, length, short = here.shape
    squares = here.new_empty(2, *stack, short, short)
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
        here: The matrices, ``[..., L, n]``.
        there: Where the result goes, likewise; with more than one iteration, ``L`` is at least ``2 n``.
        squares: Room, ``[2, ..., n, n]``.
        polynomials: One for each iteration.

    References:
        Zhang, Amsel, Chen and Dao, Gram Newton-Schulz, 2026, https://dao-lab.ai/blog/2026/gram-newton-schulz
    """
    (a, b, c), *rest = polynomials
    gram, power = _two_squares(there) if rest else squares
    _symmetric(gram, here.mT, here, beta=0, out=gram)
    _symmetric(gram, gram, gram, beta=b, alpha=c, out=power)
    if not rest:
        multiply_add(here, here, power, beta=a, out=there)
        return
    factor, spare = squares
    factor.copy_(power).diagonal(dim1=-2, dim2=-1).add_(a)
    for next_a, b, c in rest:
        _symmetric(gram, gram, power, beta=a, out=spare)
        _symmetric(spare, spare, power, beta=a, out=gram)
        a = next_a
        _symmetric(gram, gram, gram, beta=b, alpha=c, out=power)
        _symmetric(factor, factor, power, beta=a, out=spare)
        factor, spare = spare, factor
    torch.matmul(here, factor, out=there)


def _two_squares(long: Tensor) -> tuple[Tensor, Tensor]:
    """Two of the shorter side, ``[..., n, n]``, at the beginning of each matrix's memory."""
    *stack, _, short = long.shape
    first, second = long.flatten(-2)[..., : 2 * short**2].view(*stack, 2, short, short).unbind(-3)
    return first, second


def _symmetric(
    summand: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float = 1.0, out: Tensor
) -> None:
    """``beta summand + alpha left @ right`` where that is symmetric, but for rounding.

    Args:
        summand: ``[..., n, n]``, symmetric; not read where ``beta`` is 0.
        left: ``[..., n, k]``.
        right: ``[..., k, n]``.
        beta: Of the summand.
        alpha: Of the product.
        out: Where it goes, ``[..., n, n]``; shares memory with a factor in no case.
    """
    size = out.shape[-1]
    panel = PANEL if out.device.type == "cpu" else size
    for begin in range(0, size, panel):
        rows, rest = slice(begin, begin + panel), slice(begin, None)
        found = out[..., rows, rest]
        product = left[..., rows, :], right[..., rest]
        multiply_add(summand[..., rows, rest], *product, beta=beta, alpha=alpha, out=found)
        out[..., begin + panel :, rows].copy_(found[..., panel:].mT)

"""How exact directions made orthogonal in bfloat16 are: iterations, one by one and in runs, against float64.

Prints the relative error of the result in the Frobenius norm for matrices of several shapes: normal, with
singular values that range over four decades, and of rank one, as the gradient of a single example. The last
line is one JSON object.

    python benchmarks/orthogonal_errors.py
"""

import json

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from learned_opt import orthogonal_in_place
from learned_opt.orthogonal import POLYNOMIALS, orthogonalize

SHAPES = ((768, 768), (768, 1536), (768, 3072), (3072, 768), (200, 700))
DECADES = 4
KINDS = ("normal", "four decades", "rank one")
WAYS = ((5, 1), (5, 3), (5, 5), (3, 1), (3, 3))
"""Iterations, and the most of a run."""


def matrix(shape: tuple[int, int], kind: str, generator: torch.Generator) -> Tensor:
    """One of `KINDS`, in float64."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "normal":
        return normal
    if kind == "rank one":
        return normal[:, :1] * normal[:1]
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return (left * torch.logspace(0, -DECADES, min(shape), dtype=torch.float64)) @ right


def error(direction: Tensor, iterations: int, run: int) -> float:
    """Relative, of this many iterations taken in runs."""
    exact, rounded = orthogonalize(direction, iterations=iterations), direction.float()
    orthogonal_in_place.LONGEST_RUN = run
    orthogonal_in_place._orthogonalize_in_bfloat16(rounded, POLYNOMIALS[iterations])
    found = rounded.double() * (exact.norm() / rounded.double().norm())
    return float((found - exact).norm() / exact.norm())


def main() -> None:
    """Compute, print and tell."""
    generator = torch.Generator().manual_seed(0)
    table, told = Table("shape", "kind", *(f"{count} by {run}" for count, run in WAYS)), []
    for shape in SHAPES:
        for kind in KINDS:
            direction = matrix(shape, kind, generator)
            errors = [error(direction, *way) for way in WAYS]
            table.add_row(f"{shape[0]} x {shape[1]}", kind, *(f"{each:.4f}" for each in errors))
            told.append({"shape": shape, "kind": kind, "errors": errors})
    Console().print(table)
    print(json.dumps({"ways": WAYS, "least_times_short_side": orthogonal_in_place.LONG, "found": told}))


if __name__ == "__main__":
    main()

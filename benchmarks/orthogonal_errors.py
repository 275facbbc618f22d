"""How exact directions made orthogonal in bfloat16 are: iterations one by one and in runs, against float64.

Prints, for matrices of several shapes, normal ones and ones whose singular values range over four decades,
the relative error of the result in the Frobenius norm. The last line is one JSON object.

    python benchmarks/orthogonal_errors.py
"""

import json

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from learned_opt import orthogonal_in_place
from learned_opt.orthogonal import STEPS, orthogonalize

SHAPES = ((768, 768), (768, 1536), (768, 3072), (3072, 768), (200, 700))
DECADES = 4
RUNS = ((1,) * STEPS, orthogonal_in_place.RUNS, (STEPS,))


def matrix(shape: tuple[int, int], decades: int, generator: torch.Generator) -> Tensor:
    """In float64; with ``decades``, of singular values that range over as many, else normal."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not decades:
        return normal
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return (left * torch.logspace(0, -decades, min(shape), dtype=torch.float64)) @ right


def error(direction: Tensor, runs: tuple[int, ...]) -> float:
    """Relative, of the iterations taken in these runs."""
    exact, rounded = orthogonalize(direction), direction.float()
    orthogonal_in_place.RUNS = runs
    orthogonal_in_place._orthogonalize_in_bfloat16(rounded)
    found = rounded.double() * (exact.norm() / rounded.double().norm())
    return float((found - exact).norm() / exact.norm())


def main() -> None:
    """Compute, print and tell."""
    generator = torch.Generator().manual_seed(0)
    table, told = Table("shape", "decades", *("+".join(map(str, runs)) for runs in RUNS)), []
    for shape in SHAPES:
        for decades in (0, DECADES):
            direction = matrix(shape, decades, generator)
            errors = [error(direction, runs) for runs in RUNS]
            table.add_row(f"{shape}", f"{decades}", *(f"{each:.4f}" for each in errors))
            told.append({"shape": shape, "decades": decades, "errors": errors})
    Console().print(table)
    print(json.dumps({"runs": RUNS, "least_times_short_side": orthogonal_in_place.LONG, "found": told}))


if __name__ == "__main__":
    main()

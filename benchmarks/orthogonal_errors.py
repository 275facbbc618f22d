"""How exact directions made orthogonal in bfloat16 are: iterations one by one and in runs, against float64.

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
from learned_opt.orthogonal import STEPS, orthogonalize

SHAPES = ((768, 768), (768, 1536), (768, 3072), (3072, 768), (200, 700))
DECADES = 4
KINDS = ("normal", "four decades", "rank one")
RUNS = ((1,) * STEPS, orthogonal_in_place.RUNS, (STEPS,))


def matrix(shape: tuple[int, int], kind: str, generator: torch.Generator) -> Tensor:
    """One of `KINDS`, in float64."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "normal":
        return normal
    if kind == "rank one":
        return normal[:, :1] * normal[:1]
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return (left * torch.logspace(0, -DECADES, min(shape), dtype=torch.float64)) @ right


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
    table, told = Table("shape", "kind", *("+".join(map(str, runs)) for runs in RUNS)), []
    for shape in SHAPES:
        for kind in KINDS:
            direction = matrix(shape, kind, generator)
            errors = [error(direction, runs) for runs in RUNS]
            table.add_row(f"{shape}", kind, *(f"{each:.4f}" for each in errors))
            told.append({"shape": shape, "kind": kind, "errors": errors})
    Console().print(table)
    print(json.dumps({"runs": RUNS, "least_times_short_side": orthogonal_in_place.LONG, "found": told}))


if __name__ == "__main__":
    main()

"""Learned optimizers that others published, as entries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tasks.benchmark.contestants.celo import Celo, CeloPopulationFactory, CeloWeights, read_weights
from tasks.benchmark.contestants.entry import Entry, centred_grid

VARIABLE = "CELO_WEIGHTS"


@dataclass(frozen=True)
class CeloFactory:
    """Builds Celo; it can be sent to another process.

    Args:
        weights: What `read_weights` gave.
    """

    weights: CeloWeights

    def __call__(self, params: Iterable[Any], /, *, lr: float = 1.0, steps: int) -> Celo:
        """An optimizer over tensors, ``(name, tensor)`` pairs or groups."""
        return Celo(params, lr, weights=self.weights, steps=steps)


def celo_entry(path: str = "") -> Entry:
    """Celo with its published weights; its learning rate is a multiple of the published one.

    Args:
        path: The published file; ``$CELO_WEIGHTS`` if empty.

    Raises:
        ValueError: If no path is given, the file holds something else, or the package ``msgpack``, which
            reads it, is missing.
    """
    path = path or os.environ.get(VARIABLE, "")
    if not path:
        raise ValueError(
            f"Celo's weights are not part of this package: name their file as celo:PATH or in ${VARIABLE}"
        )
    try:
        weights = read_weights(path)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    return Entry(
        "celo",
        CeloFactory(weights),  # type: ignore[arg-type]
        1.0,
        centred_grid(1.0),
        "Celo",
        identity=f"celo 1 {weights.digest}",
        takes=("loss", "steps"),
        population=CeloPopulationFactory(weights),
    )

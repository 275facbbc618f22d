"""Make `flt-base` of its meta-trained stage: `python results/finish_base.py learned_opt/weights/flt-base`.

Everything is of `results/flt-base/first-stage` but the gain of vectors and the number of iterations, which
are set by hand: the README beside it says why.
"""

import sys
from dataclasses import replace
from math import log
from pathlib import Path

import torch

from learned_opt.checkpoint import load_checkpoint, save_checkpoint

STAGE = Path(__file__).parent / "flt-base" / "first-stage"
LOG_GAIN = log(10) * 8 / 13
"""Two steps of the benchmark's grid of rates, about 4.1: a vector then has the rates of Adam's own sweep."""
ITERATIONS = 3
"""That make directions orthogonal; meta-training had 5."""


def main(out: Path) -> None:
    """Write the weights, their configuration and their card into a folder."""
    stage = load_checkpoint(STAGE)
    meta = stage.meta | {"head.shape_gain": torch.tensor([LOG_GAIN])}
    config = replace(stage.config, iterations=ITERATIONS)
    by_hand = f"{stage.facts['changed_by_hand']}, head.shape_gain set to {LOG_GAIN:.4g}"
    by_hand += f", iterations set to {ITERATIONS}"
    save_checkpoint(out, config, meta, {**stage.facts, "changed_by_hand": by_hand})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

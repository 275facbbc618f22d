"""Make `flt-base` of its meta-trained stage: `python results/finish_base.py learned_opt/weights/flt-base`.

Everything is of `results/flt-base/first-stage` but the gain of vectors, which is set by hand: the README
beside it says why.
"""

import sys
from math import log
from pathlib import Path

import torch

from learned_opt.checkpoint import load_checkpoint, save_checkpoint

STAGE = Path(__file__).parent / "flt-base" / "first-stage"
LOG_GAIN = log(10) * 8 / 13
"""Two steps of the benchmark's grid of rates, about 4.1: a vector then has the rates of Adam's own sweep."""


def main(out: Path) -> None:
    """Write the weights, their configuration and their card into a folder."""
    stage = load_checkpoint(STAGE)
    meta = stage.meta | {"head.shape_gain": torch.tensor([LOG_GAIN])}
    by_hand = f"{stage.facts['changed_by_hand']}, head.shape_gain set to {LOG_GAIN:.4g}"
    save_checkpoint(out, stage.config, meta, {**stage.facts, "changed_by_hand": by_hand})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

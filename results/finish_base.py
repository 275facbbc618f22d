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
GAIN = 5.0


def main(out: Path) -> None:
    """Write the weights, their configuration and their card into a folder."""
    stage = load_checkpoint(STAGE)
    meta = stage.meta | {"head.shape_gain": torch.tensor([log(GAIN)])}
    by_hand = f"{stage.facts['changed_by_hand']}, head.shape_gain set to log {GAIN:g}"
    save_checkpoint(out, stage.config, meta, {**stage.facts, "changed_by_hand": by_hand})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

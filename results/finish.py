"""Make the weights that ship of what meta-training gave.

`python results/finish.py flt-base learned_opt/weights/flt-base`, and `flt-small` likewise. What is set by
hand is here, and why is in the README beside each one's results; all else is as meta-training left it.
"""

import sys
from dataclasses import replace
from math import log
from pathlib import Path

import torch

from learned_opt.checkpoint import load_checkpoint, save_checkpoint

STAGES = {"flt-base": "flt-base/first-stage", "flt-small": "flt-small/meta-trained"}
LOG_GAIN = log(10) * 8 / 13
"""Two steps of the benchmark's grid of rates, about 4.1: vectors then have the rates of Adam's own sweep."""
ITERATIONS = 3
"""That make directions orthogonal. Meta-training had five."""


def main(name: str, out: Path) -> None:
    """Write the weights of that name, their configuration and their card into a folder."""
    stage = load_checkpoint(Path(__file__).parent / STAGES[name])
    by_hand = [stage.facts["changed_by_hand"]] if "changed_by_hand" in stage.facts else []
    meta = dict(stage.meta)
    if name == "flt-base":
        meta["head.shape_gain"] = torch.tensor([LOG_GAIN])
        by_hand.append(f"head.shape_gain set to {LOG_GAIN:.4g}")
    by_hand.append(f"iterations set to {ITERATIONS}")
    config = replace(stage.config, iterations=ITERATIONS)
    save_checkpoint(out, config, meta, {**stage.facts, "changed_by_hand": ", ".join(by_hand)})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

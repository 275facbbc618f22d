"""The optimizer's share of a whole training step: ViT-B/16 on batches of 32 random images.

Forward and backward passes take turns with the steps of AdamW and of the learned optimizer, over the same
parameters and gradients, in one process. Prints a table of medians; the last line is one JSON object.

    python benchmarks/step_share.py --threads 2
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from learned_opt import LearnedOptimizer


@dataclass(frozen=True)
class Options:
    """Share of the optimizer in a training step.

    Args:
        model: A name of timm's.
        batch: Images of a step.
        rounds: Steps that are timed, after one that is not.
        threads: Of the processor.
        rule: A learned optimizer, by name or folder.
        state_dtype: Of its state: float32 or bfloat16.
    """

    model: str = "vit_base_patch16_224"
    batch: int = 32
    rounds: int = 3
    threads: int = 2
    rule: str = "flt-base"
    state_dtype: str = "float32"


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = timm.create_model(options.model)
    images = torch.randn(options.batch, *model.default_cfg["input_size"])
    labels = torch.randint(model.num_classes, (options.batch,))
    params = list(model.parameters())
    state_dtype = getattr(torch, options.state_dtype)
    adamw = torch.optim.AdamW(params, lr=1e-6, fused=True)
    learned = LearnedOptimizer.from_pretrained(options.rule, params, lr=1e-6, state_dtype=state_dtype)

    def passes() -> None:
        model.zero_grad()
        cross_entropy(model(images), labels).backward()

    parts: dict[str, Callable[[], object]] = {
        "forward and backward": passes,
        "AdamW(fused=True)": adamw.step,
        options.rule: learned.step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for round_number in range(options.rounds + 1):
        for name, part in parts.items():
            before = time.perf_counter()
            part()
            if round_number:
                seconds[name].append(time.perf_counter() - before)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    training = median.pop("forward and backward")
    share = {name: own / (training + own) for name, own in median.items()}
    table = Table("optimizer", "its step, s", "forward and backward, s", "share of a training step")
    for name, own in median.items():
        table.add_row(name, f"{own:.3f}", f"{training:.2f}", f"{share[name]:.1%}")
    Console().print(table)
    record = {**vars(options), "forward_backward_s": training, "step_s": median, "share": share}
    print(json.dumps(record))


if __name__ == "__main__":
    main()

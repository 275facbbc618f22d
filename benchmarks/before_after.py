"""The step of this checkout against that of another one, by turns.

Each checkout has a process, and both take the same steps in turns, so that what else the machine does falls
on both: what a change gave is told by the ratio, also where times of two runs could not be compared. Tensors
are small enough to stay in cache, so arithmetic counts. Prints medians; the last line is one JSON object.

    git worktree add ../before HEAD~1
    python benchmarks/before_after.py --before ../before
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parents[1]
sys.path.append(str(HERE))  # last: packages are those of the checkout that the path begins with

from benchmarks.turns import Process  # noqa: E402

BLOCK = ((96, 32), (96,), (32, 32), (32,), (128, 32), (128,), (32, 128), (32,), *((32,),) * 4)
SMALL_VIT = (*BLOCK, *BLOCK, (32, 1, 7, 7), (1, 1, 32), (1, 5, 32), (10, 32), (10,), *((32,),) * 3)
VIT_TINY = ((576, 192), (192, 192), (768, 192), (192, 768)) * 12
SUBJECTS = {
    "flt-base": ("flt-base", torch.float32, False, ((512, 256),)),
    "flt-base, bfloat16 state": ("flt-base", torch.bfloat16, False, ((512, 256),)),
    "flt-small": ("flt-small", torch.float32, False, ((512, 256),)),
    "flt-small, bfloat16 state": ("flt-small", torch.bfloat16, False, ((512, 256),)),
    "orthogonal, 24 x 96": ("flt-base", torch.float32, True, ((24, 96),)),
    "orthogonal, 64 x 64": ("flt-base", torch.float32, True, ((64, 64),)),
    "orthogonal, 128 x 128": ("flt-base", torch.float32, True, ((128, 128),)),
    "orthogonal, 128 x 784": ("flt-base", torch.float32, True, ((128, 784),)),
    "orthogonal, 16 x 4096": ("flt-base", torch.float32, True, ((16, 4096),)),
    "orthogonal, 128 x 2048": ("flt-base", torch.float32, True, ((128, 2048),)),
    "orthogonal, a small ViT": ("flt-base", torch.float32, True, SMALL_VIT),
    "orthogonal, matrices of ViT-Ti": ("flt-base", torch.float32, True, VIT_TINY),
    "orthogonal, 768 x 768": ("flt-base", torch.float32, True, ((768, 768),)),
    "orthogonal, 3072 x 768": ("flt-base", torch.float32, True, ((3072, 768),)),
    "orthogonal, 768 x 3072": ("flt-base", torch.float32, True, ((768, 3072),)),
}
"""Weights, dtype of the state, whether directions are made orthogonal, and the shapes of the tensors."""


@dataclass(frozen=True)
class Options:
    """What is timed.

    Args:
        before: Root of the other checkout.
        subjects: Keys of `SUBJECTS`.
        rounds: Turns of each.
        steps: Of a turn; those that make directions orthogonal are a tenth as many.
        threads: Of each process, of which one runs at a time.
        float32: Take all products in float32, as machines without units for bfloat16 do.
        worker: Internal: this process is one of the two.
    """

    before: Path
    subjects: tuple[str, ...] = tuple(SUBJECTS)
    rounds: int = 40
    steps: int = 20
    threads: int = 1
    float32: bool = False
    worker: bool = False


def work(options: Options) -> None:
    """Take a turn for every line that is read, a subject's name; print its seconds a step."""
    # of the checkout that the path of modules begins with
    from learned_opt import LearnedOptimizer, orthogonal
    from learned_opt.backends.native import update

    if options.float32:
        orthogonal.CAPABILITIES = update.CAPABILITIES = {}
    torch.set_num_threads(options.threads)
    optimizers = {}
    for line in sys.stdin:
        subject = line.strip()
        weights, dtype, shaped, shapes = SUBJECTS[subject]
        if subject not in optimizers:
            params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
            for param in params:
                param.grad = torch.randn_like(param)
            optimizers[subject] = LearnedOptimizer.from_pretrained(
                weights, params, backend="native", state_dtype=dtype, orthogonalize=shaped
            )
            optimizers[subject].step()
        steps = max(1, options.steps // 10) if shaped else options.steps
        start = time.perf_counter()
        for _ in range(steps):
            optimizers[subject].step()
        print((time.perf_counter() - start) / steps, flush=True)


def start(root: Path, options: Options) -> Process:
    """A process that takes turns with a checkout's package."""
    arguments = ("--before", str(root), "--steps", str(options.steps), "--threads", str(options.threads))
    arguments += ("--float32",) if options.float32 else ()
    return Process([sys.executable, "-P", __file__, *arguments, "--worker"], {"PYTHONPATH": str(root)})


def main(options: Options) -> None:
    """Run both, print and tell."""
    if not (options.before / "learned_opt").is_dir():
        raise SystemExit(f"before is {options.before}; expected the root of another checkout")
    processes = [start(root, options) for root in (options.before.resolve(), HERE)]
    table, told = Table("", "ns a parameter before", "after", "ratio"), {}
    for subject in options.subjects:
        elements = sum(math.prod(shape) for shape in SUBJECTS[subject][3])
        pairs = [[process.ask(subject) for process in processes] for _ in range(options.rounds + 1)][1:]
        before, after = (1e9 / elements * median(times) for times in zip(*pairs, strict=True))
        ratio = median(pair[1] / pair[0] for pair in pairs)
        table.add_row(subject, f"{before:.2f}", f"{after:.2f}", f"{ratio:.2f}")
        told[subject] = {"before_ns_per_param": before, "after_ns_per_param": after, "ratio": ratio}
    for process in processes:
        process.stop()
    Console(width=100).print(table)
    print(json.dumps({"threads": options.threads, "rounds": options.rounds, "subjects": told}))


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    work(chosen) if chosen.worker else main(chosen)

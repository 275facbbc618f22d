"""Time of one optimizer step on the tensors of a model, against Adam's and against the bytes it must move.

Every variant runs in a process of its own; they take their steps in turns, so that whatever else the machine
does falls on all of them. Gradients are random. A floor is a plain copy that reads and writes, together, as
many bytes as that variant's step has to: its state and the parameters both ways, the gradient once. Prints a
table; the last line is one JSON object.

On a machine with a GPU everything is there, and a turn is several steps between two events of the device.

    python benchmarks/step_time.py --threads 2
    python benchmarks/step_time.py --variants eager compiled --model vit_tiny_patch16_224
"""

import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import timm
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.turns import Process  # noqa: E402
from learned_opt import FLT, LearnedOptimizer, RuleConfig, UpdateRule  # noqa: E402
from learned_opt.architecture import LEAN  # noqa: E402
from meta_train.presets import FOUR_FLOATS  # noqa: E402

FLOOR_BYTES = 2**29
RULES = {
    "rich": RuleConfig(),
    "delayed": RuleConfig(statistics="delayed"),
    "narrow": RuleConfig(statistics="delayed", hidden=8, directions=2),
    "small": replace(LEAN, memory=FOUR_FLOATS),
}
"""Architectures beside that of the shipped weights; the small one has four floats of state a parameter."""


@dataclass(frozen=True)
class Options:
    """Time of one optimizer step.

    Args:
        model: Of timm; only the shapes of its tensors count.
        variants: What is timed beside the floors: ``adamw-fused``, ``adamw-foreach``, a backend, ``default``,
            ``orthogonal`` (``default`` with the iterations that make directions orthogonal, which all others
            go without) or one of `RULES`; but for AdamW, with ``-bfloat16`` behind it for state in that.
        rounds: Steps of each that count.
        warmup: Steps of each before, that do not.
        threads: Of each process.
        device: ``cpu`` or ``cuda``; by default the GPU, if there is one.
        steps: Of each turn on a GPU, which are timed together; on a CPU a turn is one step.
        training: Also time forward and backward passes of the model with this batch size; 0 for none.
        latency: Also time the first step of a process with nothing compiled before, and of the next one.
        worker: Internal: the variant that this process times.
    """

    model: str = "vit_base_patch16_224"
    variants: tuple[str, ...] = (
        "adamw-fused",
        "adamw-foreach",
        "default",
        "default-bfloat16",
        "small",
        "small-bfloat16",
    )
    rounds: int = 15
    warmup: int = 3
    threads: int = 2
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    steps: int = 10
    training: int = 0
    latency: bool = False
    worker: str = ""


def shapes_of(model: str) -> list[torch.Size]:
    """Shapes of a timm model's parameters."""
    with torch.device("meta"):
        return [param.shape for param in timm.create_model(model).parameters()]


def optimizer_of(variant: str, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a variant's name: ``name`` or ``name-dtype``."""
    if variant.startswith("adamw-"):
        return torch.optim.AdamW(params, lr=1e-3, **{variant.removeprefix("adamw-"): True})
    name, _, dtype = variant.partition("-")
    options = {"lr": 1e-3, "weight_decay": 0.05, "state_dtype": getattr(torch, dtype or "float32")}
    if name in RULES:
        rule = UpdateRule(RULES[name])
        return LearnedOptimizer(params, rule=rule, meta=rule.init_meta(), **options)
    if name == "orthogonal":
        return FLT(params, **options)
    backend = "auto" if name == "default" else name
    return FLT(params, orthogonalize=False, backend=backend, **options)


def state_floats(optimizer: torch.optim.Optimizer) -> float:
    """Floats of state a parameter, a bfloat16 as half of one."""
    size = sum(param.numel() for group in optimizer.param_groups for param in group["params"])
    held = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return sum(tensor.nbytes for tensor in held) / 4 / size


class Clock:
    """Times steps on the CPU.

    Args:
        options: Of the benchmark.
    """

    def __init__(self, options: Options) -> None:
        self.steps = options.steps

    def seconds(self, step: Callable[[], object]) -> float:
        """Of one step."""
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    def extra_bytes(self, step: Callable[[], object]) -> int:
        """Most memory that one step holds beside what it leaves behind."""
        ctypes.CDLL(None).malloc_trim(0)  # what steps before have freed must not serve this one
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        step()
        return _memory("VmHWM") - before


class DeviceClock(Clock):
    """Times steps on the GPU, from when the first begins there until the last ends."""

    def seconds(self, step: Callable[[], object]) -> float:
        """Of one step, the mean of several: they wait for one another on the device, not here."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(self.steps):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.steps

    def extra_bytes(self, step: Callable[[], object]) -> int:
        """Of what torch has allocated there."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class Floor:
    """A plain copy of as many bytes as a step must touch."""

    def __init__(self, touched: float, device: str) -> None:
        self.bytes = int(touched / 2)
        self.source = torch.ones(min(self.bytes, FLOOR_BYTES), dtype=torch.uint8, device=device)
        self.target = torch.zeros_like(self.source)

    def step(self) -> None:
        """Copy, in as many pieces as it takes."""
        left = self.bytes
        while left > 0:
            size = min(left, len(self.source))
            self.target[:size].copy_(self.source[:size])
            left -= size


class Training:
    """Forward and backward passes of the model itself."""

    def __init__(self, model: str, batch: int, device: str) -> None:
        self.model = timm.create_model(model).to(device)
        self.images = torch.randn(batch, 3, 224, 224, device=device)

    def step(self) -> None:
        """One of each."""
        self.model.zero_grad()
        self.model(self.images).square().mean().backward()


def worker(options: Options) -> None:
    """Take a step for each line read, or several on a GPU; answer with the seconds of one."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    variant, facts, device = options.worker, {}, options.device
    clock = DeviceClock(options) if device == "cuda" else Clock(options)
    if variant.startswith("floor:"):
        subject = Floor(float(variant.removeprefix("floor:")), device)
    elif variant == "training":
        subject = Training(options.model, options.training, device)
    else:
        params = [
            nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes_of(options.model)
        ]
        for param in params:
            param.grad = torch.randn_like(param) * 1e-3
        start = time.perf_counter()
        subject = optimizer_of(variant, params)
        subject.step()
        if device == "cuda":
            torch.cuda.synchronize()
        facts = {"first_step_seconds": time.perf_counter() - start, "state_floats": state_floats(subject)}
        facts["peak_extra_bytes"] = clock.extra_bytes(subject.step)
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": clock.seconds(subject.step)}), flush=True)


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class Worker(Process):
    """The process of one variant."""

    def __init__(self, options: Options, variant: str, **environment: str) -> None:
        command = [sys.executable, __file__, "--worker", variant, "--model", options.model]
        command += ["--threads", str(options.threads), "--training", str(options.training)]
        command += ["--device", options.device, "--steps", str(options.steps)]
        super().__init__(command, {"OMP_NUM_THREADS": str(options.threads), **environment})
        self.seconds: list[float] = []
        self.facts = self.answer()

    def step(self) -> None:
        """Let it take a step."""
        self.seconds.append(self.ask("step")["seconds"])


def measure(options: Options) -> dict:
    """Time all variants in turns."""
    size = sum(shape.numel() for shape in shapes_of(options.model))
    workers = {variant: Worker(options, variant) for variant in options.variants}
    touched = {
        variant: f"floor:{size * (8 * round(each.facts['state_floats'], 2) + 12):.0f}"
        for variant, each in workers.items()
    }
    copies = {name: Worker(options, name) for name in dict.fromkeys(touched.values())}
    floors = {variant: copies[name] for variant, name in touched.items()}
    everyone = [*workers.values(), *copies.values()]
    if options.training:
        everyone.append(training := Worker(options, "training"))
    for _ in range(options.warmup + options.rounds):
        for each in everyone:
            each.step()
    seconds = {each: median(each.seconds[options.warmup :]) for each in everyone}
    for each in everyone:
        each.stop()
    adam = seconds[workers["adamw-fused"]] if "adamw-fused" in workers else float("nan")
    rows = {
        variant: {
            **each.facts,
            "ns_per_param": seconds[each] / size * 1e9,
            "floor_ns_per_param": seconds[floors[variant]] / size * 1e9,
            "ratio_to_fused_adamw": seconds[each] / adam,
            "ratio_to_floor": seconds[each] / seconds[floors[variant]],
            "peak_extra_share": each.facts["peak_extra_bytes"] / (4 * size),
        }
        for variant, each in workers.items()
    }
    if options.training:
        passes = seconds[training]
        for variant, each in workers.items():
            rows[variant]["share_of_training_step"] = seconds[each] / (seconds[each] + passes)
    return rows


def latency(options: Options) -> dict[str, float]:
    """First step of a process, with nothing in the cache and after another process filled it."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = ("LEARNED_OPT_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        places = dict.fromkeys(caches, folder)
        for name in ("fresh", "cached"):
            each = Worker(options, "default", **places)
            each.step()
            seconds[f"{name}_first_step_seconds"] = each.facts["first_step_seconds"] - each.seconds[0]
            each.stop()
    return seconds


def main(options: Options) -> None:
    """Measure and print."""
    load = os.getloadavg()[0]
    rows = measure(options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    facts = {"model": options.model, "device": name, "threads": options.threads, "load_before": load}
    if options.latency:
        facts |= latency(options)
    table = Table("variant", "floats", "ns/param", "x fused AdamW", "x floor", "extra memory")
    for variant, row in rows.items():
        numbers = [row[key] for key in ("ns_per_param", "ratio_to_fused_adamw", "ratio_to_floor")]
        cells = [f"{number:.2f}" for number in numbers]
        table.add_row(variant, f"{row['state_floats']:.2f}", *cells, f"{row['peak_extra_share']:.1%}")
    Console(width=100).print(table)
    print(json.dumps({**facts, "variants": rows}))


if __name__ == "__main__":
    arguments = tyro.cli(Options)
    worker(arguments) if arguments.worker else main(arguments)

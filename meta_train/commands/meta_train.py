"""``learned-opt meta-train``: a new optimizer, as a folder."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from meta_train.commands import Stopped, UsageError, parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import say, shown
from meta_train.commands.running import run_with_display
from meta_train.config import MetaTrainConfig
from meta_train.loop import Interrupted
from meta_train.presets import PRESETS
from tasks.registry import choose


@dataclass(frozen=True)
class MetaTrainCommand:
    """Meta-train a new optimizer, starting from Adam, and save it as a folder.

    The folder gets the best optimizer so far (config.json and model.safetensors), a log (log.jsonl and
    TensorBoard events) and the state that --resume continues from. Ctrl-C saves and says how to go on.

    Args:
        preset: What to start from: tiny (about a minute), small (half an hour), base (an hour on 2 cores, for
            the architecture of flt-base), base-small (half of it, for 4 floats of state), rastrigin
            (functions with many minima) or imagenet-vit (Vision Transformers at 32 to 224 pixels on a folder
            of photographs: --data FOLDER; days, on a GPU).
        out: Folder for the result; without --resume it must hold no run, optimizer or log.
        resume: Go on with the run in the folder; the configuration must be as it was, but for outer_steps,
            not below those done, and checkpoint_seconds.
        workers: Processes that share the work; by default one for each processor. The result is the same for
            any number. Under torchrun its own number counts.
        device: Where to compute, cpu or cuda, of which each process takes the GPU of its own number.
        threads: Processor threads of one operation; more than one pays only for large populations.
        config: Whatever of the preset is to be different.
    """

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    config: MetaTrainConfig
    out: Path
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    workers: int | None = None
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = _parse(options)
    require_device(command.device)
    try:
        run_with_display(
            command.config,
            command.out,
            resume=command.resume,
            workers=command.workers,
            threads=command.threads,
            device=command.device,
        )
    except Interrupted as stop:
        rest = [option for option in options[1:] if option != "--resume"]
        again = shlex.join(["learned-opt", "meta-train", command.preset, "--resume", *rest])
        raise Stopped(f"{stop}. To go on: {again}") from None
    if int(os.environ.get("RANK", "0")) == 0:
        _say_what_next(command)


def _parse(options: Sequence[str]) -> MetaTrainCommand:
    """The options over the values of the preset, which comes first."""
    preset = options[0] if options else "-"
    if preset in ("-h", "--help"):
        preset = "tiny"
    elif preset.startswith("-"):
        raise UsageError(f"Name a preset first: learned-opt meta-train {{{','.join(PRESETS)}}} [OPTIONS]")
    default = MetaTrainCommand(preset, choose("preset", preset, PRESETS), Path("runs") / preset)
    command = parse(MetaTrainCommand, "meta-train", options, default=default)
    if command.config.reads_folder and not command.config.data:
        raise UsageError(f"{preset} needs images: --data FOLDER, with one subfolder of images a class")
    return command


def _say_what_next(command: MetaTrainCommand) -> None:
    out, rule = command.out, command.config.rule
    options = "total_steps=1000" if rule.progress else f"lr={rule.default_lr:g}"
    say(f"[bold green]Done[/]: the optimizer is in {shown(out)}.")
    say(f"Use it:      LearnedOptimizer.from_pretrained({str(out)!r}, model.parameters(), {options})")
    say(f"Look at it:  learned-opt inspect {shown(out)}")
    say(f"Judge it:    learned-opt bench --optimizers adam,{shown(out)} --tasks digits-vit,rastrigin-10")

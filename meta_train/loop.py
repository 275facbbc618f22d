"""The outer loop: a run from its start or its last checkpoint to its end, or to Ctrl-C."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from torch.distributed import is_torchelastic_launched

from meta_train.config import MetaTrainConfig
from meta_train.interrupt import InterruptFlag
from meta_train.ranks import ProcessFailedError, Ranks
from meta_train.state import CheckpointFailedError, saved_step, sole_run
from meta_train.trainer import DivergedError, MetaTrainer, Progress
from meta_train.training.processes import GroupInterruptFlag
from tasks.files import writable_folder


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by Ctrl-C; ``folder`` holds a state to continue from.

    Args:
        folder: Of the run.
        lost: Outer steps that were done since that state.
    """

    def __init__(self, folder: Path, *, lost: int = 0) -> None:
        back = f"{lost} outer step{'s' if lost > 1 else ''} back"
        unsaved = f"Stopped; the last checkpoint in {folder} is {back}"
        super().__init__(unsaved if lost else f"Stopped and saved in {folder}")
        self.folder = folder


def meta_train(
    config: MetaTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
) -> Path:
    """Meta-train an optimizer.

    Args:
        config: What to run.
        out: Folder for the optimizer (``config.json`` and ``model.safetensors``, the best so far by
            validation or the last), the log, TensorBoard events and the state to resume from.
        resume: Continue the run in ``out``, with any number of processes.
        ranks: The processes that share the work; this one alone by default.
        device: Where to compute; of several processes with ``cuda``, each takes a GPU of its own.
        on_progress: Called after every outer step.
        on_interrupt: Called on the first Ctrl-C, after which the current outer step is finished and saved; a
            second Ctrl-C stops at once, at the last checkpoint. Under ``torchrun``, which passes on a
            Ctrl-C that came already, it is ``torchrun`` that stops the processes at a second one.

    Returns:
        The folder.

    Raises:
        ValueError: If ``out`` holds a run of another configuration or of more outer steps, or one or an
            optimizer and ``resume`` is false, or another run is under way there, or there are more processes
            than units of work.
        OSError: If ``out`` cannot be written, or data cannot be read.
        ProcessFailedError: On every process, in place of these, if there are several.
        LostProcessError: If another process is gone.
        CheckpointFailedError: If a checkpoint cannot be written; the one before it is whole.
        Interrupted: On Ctrl-C, once there is a saved state to continue from; it says how far back.
        KeyboardInterrupt: On Ctrl-C before that.
        DivergedError: If the meta-gradient was not finite 20 times in a row.
    """
    ranks = ranks or Ranks()
    with ranks.all_or_none():
        writable_folder(out)
        device = ranks.take_device(device)
    flag = GroupInterruptFlag if is_torchelastic_launched() else InterruptFlag
    with ExitStack() as held:
        held.enter_context(sole_run(out, ranks, resume=resume))
        trainer = MetaTrainer(config, out, resume=resume, ranks=ranks, device=device)
        held.enter_context(closing(trainer.log))
        interrupt = held.enter_context(flag(on_interrupt))
        stopped = False
        try:
            while trainer.step < config.outer_steps and not stopped:
                progress = trainer.advance(stop=interrupt.raised)
                stopped = progress.stopped
                if on_progress is not None:
                    on_progress(progress)
            if trainer.step < config.outer_steps:
                trainer.save()
                raise Interrupted(out)
        except KeyboardInterrupt:
            raise _interrupted(trainer) from None
        except (CheckpointFailedError, Interrupted):
            raise
        except Exception as error:
            if interrupt.raised:  # a terminal sends Ctrl-C to the C++ compiler too
                raise _interrupted(trainer) from error
            raise
    return out


def follow(config: MetaTrainConfig, out: Path, ranks: Ranks, *, resume: bool, device: str) -> None:
    """Take part in a run that another process leads, which says what ends it for all.

    Raises:
        LostProcessError: If another process is gone.
        SystemExit: If the run failed; what this process alone met is printed.
    """
    try:
        meta_train(config, out, resume=resume, ranks=ranks, device=device)
    except Interrupted:
        return
    except (ProcessFailedError, CheckpointFailedError, DivergedError):
        ranks.outlast_first()
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"process {ranks.rank}: {error}", file=sys.stderr)
        sys.exit(1)


def _interrupted(trainer: MetaTrainer) -> Interrupted:
    """What to raise where the run stops without a checkpoint of this moment."""
    return Interrupted(trainer.out, lost=trainer.step - (saved_step(trainer.out) or 0))

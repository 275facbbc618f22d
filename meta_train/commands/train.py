"""``learned-opt train``: an image classifier, with any optimizer."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from learned_opt.checkpoint import CONFIG, WEIGHTS
from meta_train.alone import alone_in
from meta_train.commands import CommandError, Stopped, parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import say, shown
from meta_train.commands.train_display import TrainDisplay
from meta_train.compiler import missing_for_compilation
from meta_train.interrupt import InterruptFlag
from meta_train.rendezvous import restarts
from meta_train.state import STATE_NAME
from meta_train.training.augmentation import BatchAugmentation
from meta_train.training.config import AugmentationConfig, DataConfig, FitConfig
from meta_train.training.data import ImageData, Plan, TrainingBatches, ValidationBatches
from meta_train.training.fit import Trainer, TrainingDivergedError
from meta_train.training.models import SMALL_VIT, build_model
from meta_train.training.opening import open_data
from meta_train.training.optimizers import build_optimizer, schedules_itself
from meta_train.training.processes import GroupInterruptFlag, World, join_world
from meta_train.training.randomness import seed_generators
from meta_train.training.recipes import RECIPES
from meta_train.training.record import METRICS_NAME, write_config
from meta_train.training.saving import CHECKPOINT_NAME
from meta_train.training.session import Session, read_epochs
from tasks.base import require_seed
from tasks.files import writable_folder
from tasks.registry import choose

FREE = (
    *("out", "resume", "device", "workers", "data_root", "download"),
    *("log_every", "checkpoint_every", "stop_after"),
)
"""Options that a resumed run may change."""


@dataclass(frozen=True)
class TrainCommand:
    """Train an image classifier with any optimizer by name, ours or timm's.

    Under torchrun all processes train together; see docs/training.md.

    Args:
        model: Any of timm's models, such as vit_small_patch16_224 or resnet18; or vit-small-images, a small
            Vision Transformer that fits images of any size.
        images: What to train on.
        opt: flt or another learned optimizer that ships (flt-small, flt-rastrigin), the folder of a saved
            one, or one of timm's: adamw, ...
        recipe: Take all other values from a published recipe: vit-s16-300 or vit-b16-300. What is given
            beside it counts more.
        lr: Learning rate at its peak; by default the optimizer's own.
        weight_decay: Weight decay, of all but biases and norms.
        layer_decay: Factor of the learning rate from a block to the one before it.
        fit: How to train.
        augmentation: Of the training images.
        image_size: Side to which images are resized; by default what suits model and data.
        patch_size: Side of a Vision Transformer's patches; by default the model's own.
        drop_path: Probability of leaving out a block of the model.
        dropout: Probability of dropping a feature of the model.
        device: Where to compute, cpu or cuda.
        seed: Draws the initial weights, the order of the images and their augmentation.
        out: Folder for the figures and the checkpoints, in place of earlier ones.
        resume: Go on with the run in the folder, if there is one; the other options must be as they were.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = SMALL_VIT
    images: DataConfig = field(default_factory=DataConfig)
    opt: str = "flt"
    recipe: str | None = None
    lr: float | None = None
    weight_decay: float = 0.0
    layer_decay: float | None = None
    fit: FitConfig = field(default_factory=FitConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    image_size: int | None = None
    patch_size: int | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/train")
    resume: tyro.conf.FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in ("drop_path", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a probability below 1")

    def options(self) -> dict[str, Any]:
        """All options under their own names, as JSON can hold them."""
        values = asdict(self)
        for group in ("images", "fit", "augmentation"):
            values |= values.pop(group)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse_command(options)
    require_device(command.device)
    if command.fit.compiled and command.device == "cpu" and (missing := missing_for_compilation()):
        raise ValueError(f"compiled needs {missing}")
    with join_world(command.device) as world, _sole_run(command.out, world):
        if world.maximum(torch.tensor([restarts()])):  # several machines may count them differently
            command = replace(command, resume=True)
        session, title = prepare(command, world)
        display = TrainDisplay(session, enabled=world.is_first)
        display.say(title)
        interrupt = (InterruptFlag if world.size == 1 else GroupInterruptFlag)(display.interrupted)
        try:
            with interrupt, display:
                finished = session.run(display.observer(lambda: interrupt.raised))
        except TrainingDivergedError as error:
            raise CommandError(str(error)) from error
        if not finished:
            _stopped(command, options, session)
        if world.is_first and (epochs := read_epochs(command.out)):
            best = max(epochs, key=lambda epoch: epoch.best_accuracy)
            display.say(f"Best validation accuracy {best.best_accuracy:.1%}, in epoch {best.epoch}.")
        metrics, checkpoint = (shown(command.out / name) for name in (METRICS_NAME, CHECKPOINT_NAME))
        display.say(f"Metrics: {metrics}   Checkpoint: {checkpoint}")


def parse_command(options: Sequence[str]) -> TrainCommand:
    """The options over the values of the recipe, if one is named.

    Raises:
        UsageError: If an option is unknown or its value cannot be read.
        UnknownNameError: If there is no such recipe.
    """
    name = _recipe_name(options)
    if name is None:
        return parse(TrainCommand, "train", options)
    recipe = choose("recipe", name, RECIPES)
    default = TrainCommand(
        recipe.model,
        DataConfig(data=""),
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        fit=recipe.fit,
        augmentation=recipe.augmentation,
        drop_path=recipe.drop_path,
        out=Path("runs") / name,
    )
    command = parse(TrainCommand, "train", options, default=default)
    if not command.images.data:
        raise ValueError(f"recipe {name} needs images: --data FOLDER, with train and validation subfolders")
    return command


def _recipe_name(options: Sequence[str]) -> str | None:
    for option, value in zip(options, [*options[1:], ""], strict=False):
        if option == "--recipe":
            return value
        if option.startswith("--recipe="):
            return option.removeprefix("--recipe=")
    return None


def prepare(command: TrainCommand, world: World) -> tuple[Session, str]:
    """Open the data, build model and optimizer, and set up the run; with a line that says what it is.

    Raises:
        ValueError: If one of them cannot be had.
    """
    seed_generators(command.seed, "weights")
    data = open_data(command.images, recorded=world.is_first)
    model, size = build_model(
        command.model,
        data.kind,
        image_size=command.image_size,
        patch_size=command.patch_size,
        drop_path=command.drop_path,
        dropout=command.dropout,
    )
    model = model.to(world.device)
    plan = _plan(command, world, size)
    train, validation = data.training(plan), data.validation(plan)
    share = train.batch_size // (command.fit.accumulate * world.size)
    if command.augmentation.mixes and share % 2:
        raise ValueError(f"a pass takes {share} images, which are mixed in pairs; expected an even number")
    optimizer = build_optimizer(
        command.opt,
        model,
        lr=command.lr,
        weight_decay=command.weight_decay,
        layer_decay=command.layer_decay,
        steps=command.fit.epochs * train.steps,
    )
    augmentation = BatchAugmentation(command.augmentation, classes=data.kind.classes, device=world.device)
    trainer = Trainer(model, optimizer, augmentation, command.fit, seed=command.seed, world=world)
    command = replace(command, fit=trainer.config)
    return _session(command, data, trainer, train, validation), _title(command, trainer, size)


def _plan(command: TrainCommand, world: World, size: int) -> Plan:
    return Plan(
        size=size,
        batch_size=command.fit.batch_size,
        accumulate=command.fit.accumulate,
        augmentation=command.augmentation,
        seed=command.seed,
        workers=command.images.workers,
        world=world,
    )


@contextmanager
def _sole_run(out: Path, world: World) -> Iterator[None]:
    """Keep other runs out of the folder meanwhile.

    Raises:
        ValueError: If one is under way there, or the folder holds what no training run wrote.
        OSError: If the folder cannot be written.
    """
    with ExitStack() as held:
        refusal: OSError | ValueError | None = None
        if world.is_first:
            try:
                _require_no_optimizer(out)
                held.enter_context(alone_in(out, lock=writable_folder(out)))
            except (OSError, ValueError) as error:
                refusal = error
        if world.maximum(torch.tensor([int(refusal is not None)])):
            raise refusal or ValueError(f"the first process refuses the folder {out}")
        yield


def _require_no_optimizer(out: Path) -> None:
    """Refuse a folder whose ``config.json`` is that of a learned optimizer or of its meta-training."""
    held = [name for name in (WEIGHTS, STATE_NAME) if (out / name).exists()]
    if held:
        raise ValueError(
            f"{out} holds {', '.join(held)} of a learned optimizer, whose {CONFIG} a run would write over; "
            "choose another folder"
        )


def _session(
    command: TrainCommand,
    data: ImageData,
    trainer: Trainer,
    train: TrainingBatches,
    validation: ValidationBatches,
) -> Session:
    out = writable_folder(command.out)
    read = {split: manifest.as_json() for split, manifest in data.manifests.items()}
    options = command.options()
    identity = {name: value for name, value in options.items() if name not in FREE}
    session = Session(
        trainer,
        data,
        train,
        validation,
        out=out,
        identity={**identity, "read": read} if trainer.world.is_first else None,
        resume=command.resume,
    )
    if trainer.world.is_first:
        write_config(
            out, options, data.manifests, processes=trainer.world.size, device=str(trainer.world.device)
        )
    return session


def _title(command: TrainCommand, trainer: Trainer, size: int) -> str:
    fit, parameters = command.fit, sum(parameter.numel() for parameter in trainer.model.parameters())
    images = f"{command.images.data} ({size} by {size})"
    title = f"{command.model} ({parameters:,} parameters) on {images} with {command.opt}"
    if schedules_itself(trainer.optimizer) and fit.schedule == "constant" and not fit.warmup:
        title += ", which has a schedule of its own: the learning rate is constant"
    return title


def _stopped(command: TrainCommand, options: Sequence[str], session: Session) -> None:
    """Say in the first process how to go on with a run that did not come to its end.

    Raises:
        Stopped: If that was the user's wish.
    """
    progress, world = session.trainer.progress, session.world
    if not world.is_first:
        return
    where = f"after step {progress.step}, in epoch {progress.epoch + 1} of {command.fit.epochs}"
    if not session.interrupted:
        say(f"Stopped {where}, as asked, and saved.")
        return
    rest = [option for option in options if option != "--resume"]
    again = shlex.join(["learned-opt", "train", "--resume", *rest])
    how = "To go on" if world.size == 1 else "To go on, under torchrun as before"
    raise Stopped(f"Stopped {where}, and saved in {command.out}. {how}: {again}")

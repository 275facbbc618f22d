"""Suites: choices of tasks, optimizers and budget that have a name, so that their results can be compared.

The tasks are judges, which meta-training refuses; see ``tasks.JUDGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike

from tasks.base import Task
from tasks.benchmark.contestants.entry import Entry
from tasks.images import FolderImages
from tasks.registry import choose
from tasks.vit import timm_vit

REFERENCES = ("adam", "adamw")
STRONG = ("nadamw", "lion", "muon", "soap", "schedulefreeadamw")
LONGEST_HORIZON = 1000
"""Steps of the longest episodes on which a shipped optimizer was meta-trained."""

FolderTask = Callable[[FolderImages], Task]


@dataclass(frozen=True)
class Suite:
    """A benchmark with a name.

    Attributes:
        name: Short name, for example ``core``.
        description: What it is for and how long it takes, one line for people.
        steps: Length of every run, by the name of its task, in the order of the report.
        baselines: Names of the optimizers that every benchmark of the suite runs.
        references: Names of those over the best of which speed-ups are figured.
        seeds: How many.
        schedules: Keys of `SCHEDULES`.
        thinning: Every how many of an optimizer's 14 learning rates run; 1 is the whole budget.
        device: Where it is meant to run.
        image: Side in pixels of the user's images; 0 if the suite needs none.
        folder_tasks: Builders of the tasks that need the user's images, by name.
    """

    name: str
    description: str
    steps: Mapping[str, int]
    baselines: tuple[str, ...] = REFERENCES
    references: tuple[str, ...] = REFERENCES
    seeds: int = 5
    schedules: tuple[str, ...] = ("constant", "warmup-cosine")
    thinning: int = 1
    device: str = "cpu"
    image: int = 0
    folder_tasks: Mapping[str, FolderTask] | None = None

    def tasks(self, folder: str | PathLike[str] | None = None) -> list[str | Task]:
        """What `run_benchmark` takes for tasks.

        Args:
            folder: Of images, one subfolder a class, where the suite needs them.

        Raises:
            ValueError: If the suite needs a folder and has none, or the reverse.
            DatasetError: If the folder cannot be used.
        """
        if self.folder_tasks is None:
            if folder is not None:
                raise ValueError(f"suite {self.name} has its own data and takes no folder, got {folder}")
            return list(self.steps)
        if folder is None:
            raise ValueError(f"suite {self.name} needs a folder of images, one subfolder a class")
        images = FolderImages(folder, image=self.image)
        return [build(images) for build in self.folder_tasks.values()]

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """The learning rates of an entry's sweep that run."""
        return entry.learning_rates[self.thinning // 2 :: self.thinning]


def _imagenet_vit(model: str, name: str, images: FolderImages) -> Task:
    return timm_vit(model, data=images, patch=8, batch_size=256, name=name)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "smoke",
            "does everything run: 3 small tasks, 2 seeds, 5 learning rates, no result; a minute",
            {"rastrigin-2": 100, "logistic-digits": 100, "digits-vit-small": 80},
            seeds=2,
            thinning=3,
        ),
        Suite(
            "quick",
            "a first answer: 5 tasks, the full budget, 5 seeds; 5 minutes on 2 idle cores",
            {
                "rastrigin-10": 500,
                "logistic-digits": 500,
                "fashion-14-autoencoder": 400,
                "fashion-14-conv": 300,
                "fashion-14-vit": 200,
            },
        ),
        Suite(
            "core",
            "the comparison: 11 tasks, 7 baselines, the full budget, 5 seeds; about 2 hours on 2 cores",
            {
                "rastrigin-2": 500,
                "rastrigin-10": 1000,
                "rastrigin-100": 1000,
                "logistic-digits": 1000,
                "fashion-mlp": 300,
                "fashion-14-conv": 500,
                "digits-vit-small": 300,
                "fashion-14-vit": 400,
                "descriptions-transformer": 500,
                "fashion-14-gru": 400,
                "fashion-14-autoencoder": 600,
            },
            baselines=(*REFERENCES, *STRONG),
        ),
        Suite(
            "long",
            "25 times the longest episode of meta-training; most of a day on 2 cores",
            {
                "rastrigin-10": 25 * LONGEST_HORIZON,
                "fashion-14-autoencoder": 25 * LONGEST_HORIZON,
                "fashion-14-conv": 25 * LONGEST_HORIZON,
                "fashion-14-vit": 25 * LONGEST_HORIZON,
            },
        ),
        Suite(
            "imagenet",
            "Vision Transformers on a folder of photographs at 64 pixels; needs the data and a GPU",
            {"imagenet-vit-tiny": 5000, "imagenet-vit-small": 5000},
            device="cuda",
            image=64,
            folder_tasks={
                name: partial(_imagenet_vit, model, name)
                for name, model in (
                    ("imagenet-vit-tiny", "vit_tiny_patch16_224"),
                    ("imagenet-vit-small", "vit_small_patch16_224"),
                )
            },
        ),
    )
}


def get_suite(name: str) -> Suite:
    """Return a suite by name.

    Raises:
        UnknownNameError: If there is none of that name; the message lists them.
    """
    return choose("suite", name, SUITES)

"""Synthetic classification: a student learns the labels that a random teacher gives to random inputs."""

from __future__ import annotations

from functools import partial

import torch

from tasks.base import TaskFamily, draw_seed
from tasks.image_mlp import mlp
from tasks.module import ClassificationTask
from tasks.teacher_data import CLASSES, INPUTS, TeacherData


def teacher(seed: int = 0) -> ClassificationTask:
    """Return the task of fitting a perceptron 16-32-32-10 with layer norms to the teacher of a seed."""
    return ClassificationTask(
        partial(mlp, (INPUTS, 32, 32, CLASSES), "gelu", norm="layer"),
        TeacherData(seed),
        64,
        name="teacher",
        description="random teacher network: perceptron 16-32-32-10, gelu, layer normalisation, batch 64",
        default_steps=1000,
        learning_rates=(3e-4, 3e-2),
        metric="accuracy",
    )


def _sample(generator: torch.Generator) -> ClassificationTask:
    return teacher(draw_seed(generator))


TASKS = {"teacher": teacher}

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily("teacher", "perceptron 16-32-32-10 fitted to a fresh random teacher network", _sample),
)

"""Tasks: what is optimised, and how an optimizer is judged on it."""

from tasks.augment import Reparametrised, reparametrise, reparametrised
from tasks.base import Batch, ParametricFamily, Params, Split, Task, TaskFamily
from tasks.catalogue import (
    JUDGES,
    family_names,
    get_family,
    get_parametric,
    get_task,
    parametric_names,
    require_trainable,
    task_names,
)
from tasks.datasets import Dataset, DatasetError, DataSource, MissingDatasetError, dataset_names, load_dataset
from tasks.landscapes import Landscape
from tasks.logistic import LogisticRegression
from tasks.module import ClassificationTask, ModuleTask
from tasks.quadratic import Quadratic
from tasks.rastrigin import Rastrigin
from tasks.registry import UnknownNameError, choose
from tasks.teacher_data import TeacherData

__all__ = [
    "JUDGES",
    "Batch",
    "ClassificationTask",
    "DataSource",
    "Dataset",
    "DatasetError",
    "Landscape",
    "LogisticRegression",
    "MissingDatasetError",
    "ModuleTask",
    "ParametricFamily",
    "Params",
    "Quadratic",
    "Rastrigin",
    "Reparametrised",
    "Split",
    "Task",
    "TaskFamily",
    "TeacherData",
    "UnknownNameError",
    "choose",
    "dataset_names",
    "family_names",
    "get_family",
    "get_parametric",
    "get_task",
    "load_dataset",
    "parametric_names",
    "reparametrise",
    "reparametrised",
    "require_trainable",
    "task_names",
]

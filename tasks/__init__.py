"""Tasks: what is optimised, and how an optimizer is judged on it."""

from tasks.augment import Augmentation, Range, Reparametrised, augmented, reparametrise, reparametrised
from tasks.base import Batch, ParametricFamily, Params, Split, Task, TaskFamily
from tasks.catalogue import (
    JUDGES,
    family_names,
    folder_family_names,
    function_names,
    get_family,
    get_function,
    get_parametric,
    get_task,
    parametric_names,
    require_trainable,
    task_names,
)
from tasks.datasets import Dataset, DatasetError, DataSource, MissingDatasetError, dataset_names, load_dataset
from tasks.images import FolderImages
from tasks.landscapes import Landscape
from tasks.logistic import LogisticRegression
from tasks.module import ClassificationTask, ModuleTask
from tasks.quadratic import Quadratic
from tasks.rastrigin import Rastrigin
from tasks.registry import UnknownNameError, choose
from tasks.teacher_data import TeacherData
from tasks.vit import folder_vit_family, timm_vit

__all__ = [
    "JUDGES",
    "Augmentation",
    "Batch",
    "ClassificationTask",
    "DataSource",
    "Dataset",
    "DatasetError",
    "FolderImages",
    "Landscape",
    "LogisticRegression",
    "MissingDatasetError",
    "ModuleTask",
    "ParametricFamily",
    "Params",
    "Quadratic",
    "Range",
    "Rastrigin",
    "Reparametrised",
    "Split",
    "Task",
    "TaskFamily",
    "TeacherData",
    "UnknownNameError",
    "augmented",
    "choose",
    "dataset_names",
    "family_names",
    "folder_family_names",
    "folder_vit_family",
    "function_names",
    "get_family",
    "get_function",
    "get_parametric",
    "get_task",
    "load_dataset",
    "parametric_names",
    "reparametrise",
    "reparametrised",
    "require_trainable",
    "task_names",
    "timm_vit",
]

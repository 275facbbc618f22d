import pickle

import pytest
import torch

from tasks import (
    JUDGES,
    DatasetError,
    family_names,
    folder_family_names,
    get_family,
    require_trainable,
)
from tests.tasks.folders import picture, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder") / "colours")


def test_names_are_trainable_and_no_judges():
    assert set(folder_family_names()).isdisjoint({*JUDGES, *family_names()})
    for name in folder_family_names():
        require_trainable(name)


def test_a_folder_is_asked_for():
    with pytest.raises(ValueError, match="'folder-vit-32' needs a folder of images"):
        get_family("folder-vit-32")


def test_misspelt_names_are_told_of_them():
    with pytest.raises(ValueError, match="Did you mean 'folder-vit-224'"):
        get_family("folder-vit-24")


def test_folder_must_be_one(tmp_path):
    with pytest.raises(DatasetError, match="is not there"):
        get_family("folder-vit-32", folder=tmp_path / "nothing")


@pytest.mark.parametrize(("name", "side"), [("folder-vit-32", 32), ("folder-vit-64", 64)])
def test_family_trains_on_the_folder(folder, name, side):
    family = get_family(name, folder=str(folder))
    task = pickle.loads(pickle.dumps(family)).sample(torch.Generator().manual_seed(3))
    images, labels, *_ = task.batch(torch.Generator().manual_seed(0))
    assert images.shape == (32, 3, side, side)
    assert set(labels.tolist()) == {0, 1, 2}
    assert task.name == name
    assert set(task.checksums) == {"colours/train", "colours/validation"}


def test_images_are_read_once_in_a_process(folder):
    first, second = (get_family("folder-vit-32", folder=folder) for _ in range(2))
    one, other = (family.sample(torch.Generator().manual_seed(0)).task.data for family in (first, second))
    assert one is other


def test_of_many_classes_a_task_tells_some_apart(tmp_path):
    for label in range(12):
        (tmp_path / f"class-{label:02}").mkdir()
        for index in range(5):
            picture("blue", index).save(tmp_path / f"class-{label:02}" / f"{index}.jpg")
    family = get_family("folder-vit-32", folder=tmp_path)
    tasks = [family.sample(torch.Generator().manual_seed(seed)).task for seed in range(2)]
    assert [task.data.classes for task in tasks] == [10, 10]
    assert tasks[0].data.chosen != tasks[1].data.chosen

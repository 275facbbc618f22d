"""Which subfolders of a folder of images are splits, and which are classes."""

import pytest

from tasks import DatasetError, FolderImages
from tests.tasks.folders import write_folder

EVENLY = (24, 6)


def write_splits(root, train="train", validation="validation"):
    write_folder(root / train, count=10)
    write_folder(root / validation, count=5)
    return root


def sizes(root):
    images = FolderImages(root, image=8)
    assert images.classes == 3
    return images.size("train"), images.size("validation")


@pytest.mark.parametrize("name", ["validation", "val", "valid", "test"])
def test_the_usual_names_of_splits(tmp_path, name):
    assert sizes(write_splits(tmp_path, validation=name)) == (30, 15)


def test_the_first_of_several_splits_validates(tmp_path):
    write_folder(tmp_path / "test", count=7)
    assert sizes(write_splits(tmp_path, validation="val")) == (30, 15)


def test_splits_may_lie_further_down(tmp_path):
    write_splits(tmp_path / "images")
    assert sizes(tmp_path) == (30, 15)
    (tmp_path / "images/validation/red").rename(tmp_path / "images/validation/pink")
    with pytest.raises(DatasetError, match=r"train and .*validation differ in classes: pink, red"):
        sizes(tmp_path)


@pytest.mark.parametrize("names", [("training", "testing"), ("Train", "Test"), ("part-1", "part-2")])
def test_splits_of_other_names_are_refused(tmp_path, names):
    message = r"class 'blue' occurs under \S+/ and \S+/; expected one folder a class, or splits that"
    with pytest.raises(DatasetError, match=message):
        sizes(write_splits(tmp_path, *names))


def test_a_split_to_train_on_of_another_name_is_refused(tmp_path):
    message = "has a folder for validation, .*val, and none for training; expected it to be called train"
    with pytest.raises(DatasetError, match=message):
        sizes(write_splits(tmp_path, "training", "val"))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_class_may_be_called_as_a_split(tmp_path, name):
    write_folder(tmp_path)
    (tmp_path / "red").rename(tmp_path / name)
    assert sizes(tmp_path) == EVENLY
    assert name in FolderImages(tmp_path, image=8).names


def test_a_class_of_splits_may_be_called_as_one(tmp_path):
    write_splits(tmp_path)
    for split in ("train", "validation"):
        (tmp_path / split / "red").rename(tmp_path / split / "train")
    assert sizes(tmp_path) == (30, 15)


def test_classes_may_lie_in_groups(tmp_path):
    write_folder(tmp_path / "cold", names=["blue", "green"])
    write_folder(tmp_path / "warm", names=["red"])
    assert sizes(tmp_path) == EVENLY

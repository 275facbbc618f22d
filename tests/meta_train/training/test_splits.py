"""Which images train and which validate, as names of folders, of members of a tar and of splits tell."""

import gc
import tarfile
from pathlib import Path

import pytest

from meta_train.training.config import DataConfig
from meta_train.training.opening import open_data
from tests.meta_train.training.runs import COLOURS, write_images

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # timm leaves tars open
    pytest.mark.usefixtures("collected"),
]


@pytest.fixture
def collected():
    """Finalise what a test leaves open while its filters of warnings are in force."""
    yield
    gc.collect()


def tar_of(path: Path, **members: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, member in members.items():
            tar.add(member, arcname=name)
    return path


def opened(data: Path, **options):
    return open_data(DataConfig(data=str(data), **options))


def pictures(source) -> list[tuple[int, bytes]]:
    read = (source.read(index) for index in range(len(source)))
    return sorted((label, image.tobytes()) for image, label in read)


@pytest.fixture(params=["top", "below", "tars", "folder"])
def whole(request, jpegs, tmp_path) -> Path:
    """The splits of `jpegs` in one tar, in one folder of it, as tars in it, and one folder further down."""
    splits = {split: jpegs / split for split in ("train", "validation")}
    if request.param == "top":
        return tar_of(tmp_path / "all.tar", **splits)
    if request.param == "below":
        return tar_of(tmp_path / "all.tar", images=jpegs)
    if request.param == "folder":
        (tmp_path / "outer").mkdir()
        (tmp_path / "outer/images").symlink_to(jpegs)
        return tmp_path / "outer"
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for split, folder in splits.items():
            tar.add(tar_of(tmp_path / f"{split}.tar", **{"": folder}), arcname=f"{split}.tar")
    return tmp_path / "all.tar"


def test_splits_in_one_place_are_told_apart(jpegs, whole):
    data, expected = opened(whole), opened(jpegs)
    assert data.kind.classes == 3
    for split in ("train", "validation"):
        assert pictures(data.sources[split]) == pictures(expected.sources[split])


@pytest.mark.parametrize("tarred", [False, True])
def test_splits_of_unknown_names_are_refused_unless_named(own_jpegs, tmp_path, tarred):
    for old, new in (("train", "training"), ("validation", "testing")):
        (own_jpegs / old).rename(own_jpegs / new)
    data = tar_of(tmp_path / "all.tar", **{"": own_jpegs}) if tarred else own_jpegs
    with pytest.raises(ValueError, match="class 'blue' occurs under testing/ and training/; expected one"):
        opened(data)
    named = opened(data, train_split="training", validation_split="testing")
    assert (len(named.sources["train"]), len(named.sources["validation"])) == (36, 12)


def test_a_class_both_beside_and_below_others_is_refused(own_jpegs):
    (own_jpegs / "validation").rename(own_jpegs / "train/more")
    with pytest.raises(ValueError, match=r"class 'blue' occurs under \./ and more/"):
        opened(own_jpegs / "train")


def test_classes_may_lie_in_groups(own_jpegs):
    (own_jpegs / "train/warm").mkdir()
    (own_jpegs / "train/red").rename(own_jpegs / "train/warm/red")
    assert opened(own_jpegs / "train").kind.classes == 3


@pytest.mark.parametrize("tarred", [False, True])
def test_the_named_split_validates(own_jpegs, tmp_path, tarred):
    write_images(own_jpegs / "more", train=1, validation=2)
    (own_jpegs / "more/validation").rename(own_jpegs / "test")
    (own_jpegs / "more/train").rename(own_jpegs / "extra")
    data = tar_of(tmp_path / "all.tar", **{"": own_jpegs}) if tarred else own_jpegs
    for options, count in (({}, 12), ({"validation_split": "test"}, 6), ({"validation_split": "extra"}, 3)):
        sources = opened(data, **options).sources
        assert (len(sources["train"]), len(sources["validation"])) == (36, count)
    with pytest.raises(ValueError, match="does not hold both splits, train and testing"):
        opened(data, validation_split="testing")


def test_splits_in_a_tar_must_have_the_same_classes(own_jpegs, tmp_path):
    (own_jpegs / "validation/red").rename(own_jpegs / "validation/pink")
    with pytest.raises(
        ValueError, match=r"validation has other classes than .*train: it lacks 1 class \('red'\)"
    ):
        opened(tar_of(tmp_path / "all.tar", **{"": own_jpegs}))
    (own_jpegs / "validation/pink").rename(own_jpegs / "validation/red")
    (own_jpegs / "test/unknown").mkdir(parents=True)
    (own_jpegs / "train/red/0.jpg").rename(own_jpegs / "test/unknown/0.jpg")
    with pytest.raises(ValueError, match=r"has 1 class \('unknown'\) outside train and validation"):
        opened(tar_of(tmp_path / "all.tar", **{"": own_jpegs}))


@pytest.mark.parametrize("tarred", [False, True])
def test_a_class_may_be_called_train(own_jpegs, tmp_path, tarred):
    classes = own_jpegs / "train"
    (classes / "red").rename(classes / "train")
    data = tar_of(tmp_path / "all.tar", **{"": classes}) if tarred else classes
    opening = opened(data)
    assert opening.kind.classes == len(COLOURS)
    assert (len(opening.sources["train"]), len(opening.sources["validation"])) == (30, 6)


def test_a_class_called_train_in_splits(own_jpegs):
    for split in ("train", "validation"):
        (own_jpegs / split / "red").rename(own_jpegs / split / "train")
    sources = opened(own_jpegs).sources
    assert (len(sources["train"]), len(sources["validation"])) == (36, 12)

import subprocess
import sys

import pytest
from PIL import Image

from tasks import patch_source
from tasks.datasets import MissingDatasetError
from tasks.patch_source import PatchCounts, find_photographs, write_patches

SMALL = PatchCounts(train=12, validation=4)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    return folder, write_patches(folder, SMALL)


def test_there_are_at_least_two_thousand_images_of_sixteen_photographs():
    photographs = find_photographs()
    assert len(photographs) >= 16
    assert len(photographs) * (PatchCounts.train + PatchCounts.validation) >= 2000


def test_every_class_has_its_images_in_both_splits(patches):
    folder, written = patches
    classes = {path.stem for path in find_photographs()}
    for split, count in (("train", 12), ("validation", 4)):
        assert {path.name for path in (folder / split).iterdir()} == classes
        assert all(len(list((folder / split / name).glob("*.jpg"))) == count for name in classes)
    assert written == len(classes) * 16


def test_images_are_squares_of_a_useful_size(patches):
    for path in patches[0].glob("*/*/*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.width == image.height
            assert 60 <= image.width <= 128


def test_equal_seeds_give_equal_files(patches, tmp_path, monkeypatch):
    coffee = [path for path in find_photographs() if path.stem == "coffee"]
    monkeypatch.setattr(patch_source, "find_photographs", lambda: coffee)
    write_patches(tmp_path / "same", SMALL)
    write_patches(tmp_path / "other", SMALL, seed=1)
    path = "train/coffee/0003.jpg"
    assert (tmp_path / "same" / path).read_bytes() == (patches[0] / path).read_bytes()
    assert (tmp_path / "other" / path).read_bytes() != (patches[0] / path).read_bytes()


def test_no_pixel_is_in_both_splits():
    """Every pixel of this picture says in which cell it lies, so that crops tell where they are from."""
    picture = Image.new("RGB", (400, 400))
    cells = {}
    for row in range(4):
        for column in range(4):
            shade = (40 * row + 40, 40 * column + 40, 0)
            picture.paste(Image.new("RGB", (100, 100), shade), (100 * column, 100 * row))
            cells[shade[:2]] = (row, column)
    seen = {}
    for split in ("train", "validation"):
        crops = patch_source._crops(picture, split, 12, patch_source.random.Random(0))
        seen[split] = {cells[colour[:2]] for crop in crops for _, colour in crop.getcolors(10**6)}
    assert len(seen["train"]) == 12
    assert len(seen["validation"]) == 4
    assert not seen["train"] & seen["validation"]
    assert (
        {row for row, _ in seen["validation"]}
        == {column for _, column in seen["validation"]}
        == set(range(4))
    )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(patch_source, "find_spec", lambda package: None)
    with pytest.raises(MissingDatasetError, match="pip install scikit-image"):
        find_photographs()


@pytest.mark.parametrize("counts", [(0, 4), (13, 4), (12, 3), (12, 0)])
def test_counts_that_do_not_divide_are_refused(counts):
    with pytest.raises(ValueError, match="expected a multiple"):
        PatchCounts(*counts)


def test_the_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tasks.patch_source",
        str(tmp_path),
        "--train",
        "12",
        "--validation",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"304 images of 19 photographs in {tmp_path}\n"
    refused = subprocess.run([*command, "--train", "5"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)

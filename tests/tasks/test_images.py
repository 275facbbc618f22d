import pickle

import pytest
import torch
from PIL import Image

from tasks import DatasetError
from tasks.images import ClassSubset, FolderImages
from tests.tasks.folders import COLOURS, picture, write_folder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(images, split):
    """All images of a split in [0, 255] again, with their labels."""
    standardised, labels = next(images.chunks(split, 1000))
    pixels = standardised * images.deviation.view(3, 1, 1) + images.mean.view(3, 1, 1)
    return pixels.round().long(), labels


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return FolderImages(write_folder(tmp_path_factory.mktemp("photos")), image=16)


def test_every_fifth_image_of_a_class_validates(images):
    assert images.names == ["blue", "green", "red"]
    assert (images.size("train"), images.size("validation")) == (24, 6)
    assert torch.bincount(images.labels("train")).tolist() == [8, 8, 8]
    assert torch.bincount(images.labels("validation")).tolist() == [2, 2, 2]


def test_splits_of_their_own_are_used(tmp_path):
    write_folder(tmp_path / "train", count=4)
    write_folder(tmp_path / "val", count=3)
    images = FolderImages(tmp_path, image=8)
    assert (images.size("train"), images.size("validation")) == (12, 9)
    assert len(set(images.checksums.values())) == 2


def test_images_are_the_pixels_that_pil_reads(images):
    path = images.reading.folder / "green" / "004.jpg"
    with Image.open(path) as opened:
        middle = (5, 0, 35, 30)
        square = opened.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC, box=middle)
    expected = torch.tensor(list(square.tobytes())).view(16, 16, 3).permute(2, 0, 1)
    pixels, labels = levels(images, "validation")
    assert labels[2] == 1
    assert torch.equal(pixels[2], expected)


def test_images_are_standardised_over_the_training_split(images):
    everything, labels = next(images.chunks("train", 100))
    assert everything.dtype == torch.float32
    assert labels.dtype == torch.int64
    torch.testing.assert_close(everything.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(everything.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_draws_pair_images_with_labels(images, split):
    together, labels = images.draw(generator(1), (3, 5), split)
    assert together.shape == (3, 5, 3, 16, 16)
    rng = generator(1)
    assert torch.equal(together, torch.stack([images.draw(rng, (5,), split)[0] for _ in range(3)]))
    pixels = together * images.deviation.view(3, 1, 1) + images.mean.view(3, 1, 1)
    strongest = pixels.mean((-2, -1)).argmax(-1)
    assert torch.equal(labels, 2 - strongest), "blue, green, red are labels 0, 1, 2 and channels 2, 1, 0"


def test_checksums_tell_bytes_names_and_labels(folder):
    first = FolderImages(folder, image=8)
    assert FolderImages(folder, image=16).checksums == first.checksums
    assert list(first.checksums) == ["photos/train", "photos/validation"]
    picture("red", 99).save(folder / "red" / "000.jpg")
    changed = FolderImages(folder, image=8).checksums
    assert changed["photos/train"] != first.checksums["photos/train"]
    assert changed["photos/validation"] == first.checksums["photos/validation"]
    relabelled = FolderImages(folder, image=8, class_map={"blue": 0, "green": 2, "red": 1})
    assert relabelled.names == ["blue", "red", "green"]
    assert relabelled.checksums["photos/validation"] != changed["photos/validation"]


def test_a_pickle_reads_the_folder_again_and_notices_changes(folder):
    images = FolderImages(folder, image=8, per_class=4)
    content = pickle.dumps(images)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert torch.equal(again.draw(generator(), (9,), "train")[0], images.draw(generator(), (9,), "train")[0])
    picture("red", 99).save(folder / "red" / "000.jpg")
    with pytest.raises(DatasetError, match="photos no longer holds the images that were read before"):
        pickle.loads(content)


def test_per_class_takes_the_first_of_each(folder):
    images = FolderImages(folder, image=8, per_class=3)
    assert torch.bincount(images.labels("train")).tolist() == [3, 3, 3]


def test_grey_transparent_and_tiny_images_are_read(folder):
    picture("red", 0).convert("L").save(folder / "red" / "a.png")
    picture("red", 1).convert("RGBA").save(folder / "red" / "b.png")
    picture("red", 2, size=(1, 1)).save(folder / "red" / "c.png")
    assert FolderImages(folder, image=8).size("train") == 24 + 3


@pytest.mark.parametrize("damage", [b"", b"not an image", "truncated"])
def test_broken_images_are_counted_named_and_left_out(folder, damage):
    whole, labels = levels(FolderImages(folder, image=8), "train")
    path = folder / "green" / "001.jpg"
    path.write_bytes(path.read_bytes()[:600] if damage == "truncated" else damage)
    with pytest.warns(UserWarning, match=r"1 of 30 images cannot be read: green/001\.jpg; they are left out"):
        images = FolderImages(folder, image=8, broken_share=0.05)
    assert images.skipped == ["green/001.jpg"]
    left = torch.arange(24) != 9
    for part, expected in zip(levels(images, "train"), (whole, labels), strict=True):
        assert torch.equal(part, expected[left])


def test_too_many_broken_images_are_an_error_that_names_some(folder):
    for index in range(7):
        (folder / "green" / f"{index:03}.jpg").write_bytes(b"")
    message = r"7 of 30 images cannot be read: green/000\.jpg, .* and 2 more; at most 1\.0% may be left out"
    with pytest.raises(DatasetError, match=message):
        FolderImages(folder, image=8)


@pytest.mark.filterwarnings("ignore:.*images cannot be read")
def test_a_class_that_lost_all_images_is_an_error(folder):
    for path in (folder / "green").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="class 'green' has no image in the train split"):
        FolderImages(folder, image=8, broken_share=0.5)


def _empty_class(folder):
    (folder / "yellow").mkdir()


def _only_validation(folder):
    write_folder(folder / "validation")


def _other_classes(folder):
    write_folder(folder / "train")
    write_folder(folder / "validation", names=["blue", "red"])


def _loose_image(folder):
    picture("red", 0).save(folder / "loose.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty_class, r"class folder .*yellow has no images"),
        (_only_validation, "has a folder for validation, .*validation, and none for training"),
        (_other_classes, "differ in classes: green"),
        (_loose_image, "images lie in .*photos itself; expected one subfolder of images a class"),
    ],
)
def test_folders_of_another_structure(folder, change, message):
    change(folder)
    with pytest.raises(DatasetError, match=message):
        FolderImages(folder, image=8)


def test_what_is_no_folder_of_classes(tmp_path):
    with pytest.raises(DatasetError, match=r"missing is not there; expected a folder of images"):
        FolderImages(tmp_path / "missing", image=8)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"file is a file; expected a folder of images"):
        FolderImages(tmp_path / "file", image=8)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DatasetError, match="bare holds no images; expected one subfolder a class"):
        FolderImages(tmp_path / "bare", image=8)
    with pytest.raises(DatasetError, match="has one class, 'red'; expected at least two"):
        FolderImages(write_folder(tmp_path / "one", names=["red"]), image=8)
    with pytest.raises(DatasetError, match="class 'blue' has no image in the validation split"):
        FolderImages(write_folder(tmp_path / "few", count=3), image=8)


@pytest.mark.parametrize("wrong", [{"red": 3}, {"red": -1}, {"red": 1}])
def test_labels_out_of_range(folder, wrong):
    labels = {name: index for index, name in enumerate(COLOURS)} | wrong
    with pytest.raises(DatasetError, match="labels of 3 classes must be 0 to 2, each once, got"):
        FolderImages(folder, image=8, class_map=labels)


def test_too_much_memory_is_refused_before_anything_is_decoded(folder):
    (folder / "green" / "001.jpg").write_bytes(b"")
    message = r"30 images of 64 pixels take .* above the limit of .*: choose a smaller image or per_class"
    with pytest.raises(DatasetError, match=message):
        FolderImages(folder, image=64, memory_limit=30 * 3 * 64 * 64 - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 0}, "image must be at least 1, got 0"),
        ({"image": 8, "per_class": 0}, "per_class must be at least 1, got 0"),
        ({"image": 8, "memory_limit": 0}, "memory_limit must be at least 1, got 0"),
        ({"image": 8, "broken_share": 1.0}, r"broken_share must be at least 0 and below 1, got 1\.0"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        FolderImages(folder, **options)


def test_a_subset_has_new_labels_and_the_same_images(images):
    subset = ClassSubset(images, [2, 0])
    assert subset.classes == 2
    assert subset.checksums == images.checksums
    inputs, labels = next(subset.chunks("validation", 100))
    everything, originals = next(images.chunks("validation", 100))
    assert torch.equal(labels, torch.tensor([1, 1, 0, 0]))
    assert torch.equal(inputs, everything[originals != 1])
    drawn, drawn_labels = subset.draw(generator(), (4, 5), "train")
    assert drawn.shape == (4, 5, 3, 16, 16)
    assert set(drawn_labels.flatten().tolist()) == {0, 1}
    channels = (drawn * images.deviation.view(3, 1, 1) + images.mean.view(3, 1, 1)).mean((-2, -1)).argmax(-1)
    assert torch.equal(channels, drawn_labels * 2), "red is channel 0 and blue is channel 2"


@pytest.mark.parametrize("chosen", [[0, 0], [0, 3], [-1, 0]])
def test_bad_subsets(images, chosen):
    with pytest.raises(ValueError, match="chosen must be different labels from 0 to 2, got"):
        ClassSubset(images, chosen)

import gzip
import pickle
import struct
from hashlib import sha256

import pytest
import torch

from tasks import Dataset, DatasetError, MissingDatasetError, UnknownNameError, dataset_names, load_dataset
from tasks.datasets import read_fashion_mnist


def idx(values, *, magic=None, lengths=None):
    tensor = torch.as_tensor(values, dtype=torch.uint8)
    lengths = lengths or tensor.shape
    header = struct.pack(f">{1 + len(lengths)}I", magic or 0x800 + len(lengths), *lengths)
    return gzip.compress(header + bytes(tensor.flatten().tolist()), mtime=0)  # names of cases hold no time


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        idx(torch.arange(4 * 28 * 28).view(4, 28, 28) % 256)
    )
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx([3, 1, 4, 9]))
    return tmp_path


def test_digits_are_split_once_stratified_and_standardised():
    digits = load_dataset("digits")
    assert (digits.size("train"), digits.size("validation")) == (1437, 360)
    inputs, labels = next(digits.chunks("train", 2000))
    assert inputs.shape == (1437, 1, 8, 8)
    assert abs(inputs.mean()) < 1e-5
    assert abs(inputs.std() - 1) < 1e-5
    held_inputs, held_labels = next(digits.chunks("validation", 2000))
    per_class = torch.bincount(labels, minlength=10) + torch.bincount(held_labels, minlength=10)
    assert (torch.bincount(held_labels, minlength=10) - per_class / 5).abs().max() <= 1
    rows = {tuple(row.tolist()) for row in inputs.flatten(1)}
    shared = sum(tuple(row.tolist()) in rows for row in held_inputs.flatten(1))
    assert shared == 0


def test_draws_pair_images_with_their_labels():
    digits = load_dataset("digits")
    everything, labels = next(digits.chunks("train", 2000))
    known = {
        tuple(row.tolist()): int(label) for row, label in zip(everything.flatten(1), labels, strict=True)
    }
    inputs, targets = digits.draw(torch.Generator().manual_seed(0), (3, 5), "train")
    assert inputs.shape == (3, 5, 1, 8, 8)
    assert targets.shape == (3, 5)
    for row, target in zip(inputs.flatten(0, 1).flatten(1), targets.flatten(), strict=True):
        assert known[tuple(row.tolist())] == target


def test_fashion_mnist(fashion_mnist):
    assert (fashion_mnist.size("train"), fashion_mnist.size("validation")) == (60_000, 10_000)
    _, labels = next(fashion_mnist.chunks("validation", 10_000))
    assert torch.bincount(labels).tolist() == [1000] * 10
    for width in (8, 14):
        small = load_dataset(f"fashion-mnist-{width}")
        inputs, small_labels = next(small.chunks("validation", 10_000))
        assert inputs.shape == (10_000, 1, width, width)
        assert torch.equal(small_labels, labels)


def test_loaded_datasets_are_cached_and_pickled_by_name():
    digits = load_dataset("digits")
    assert pickle.loads(pickle.dumps(digits)) is digits
    split = (torch.zeros(2, 1, 1, 1, dtype=torch.uint8) + torch.arange(2).view(2, 1, 1, 1), torch.arange(2))
    own = pickle.loads(pickle.dumps(Dataset("digits", split, split)))
    assert own.size("train") == 2
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        load_dataset("digit")
    assert {"digits", "fashion-mnist", "fashion-mnist-14"} <= set(dataset_names())


def test_digits_come_at_other_sides():
    digits, large = load_dataset("digits"), load_dataset("digits-14")
    small_images, labels = next(digits.chunks("validation", 360))
    images, same_labels = next(large.chunks("validation", 360))
    assert images.shape == (360, 1, 14, 14)
    assert torch.equal(same_labels, labels)
    means = torch.stack([images.mean((1, 2, 3)), small_images.mean((1, 2, 3))])
    assert torch.corrcoef(means)[0, 1] > 0.99
    assert load_dataset("digits-14") is large
    assert load_dataset("digits-8") is digits
    assert large.checksums == digits.checksums
    for name in ("digits-7", "fashion-mnist-29"):
        with pytest.raises(ValueError, match=f"a side of 8 to 28 pixels, got '{name}'"):
            load_dataset(name)


def test_idx_files_are_read(folder):
    images, labels, checksums = read_fashion_mnist("train", folder)
    assert labels.tolist() == [3, 1, 4, 9]
    assert checksums == {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert torch.equal(images.flatten(), (torch.arange(4 * 28 * 28) % 256).to(torch.uint8))


def test_missing_dataset_names_the_package(tmp_path, monkeypatch):
    with pytest.raises(MissingDatasetError, match="apt-get install dataset-fashion-mnist"):
        read_fashion_mnist("train", tmp_path)
    monkeypatch.setenv("FASHION_MNIST_FOLDER", str(tmp_path))
    with pytest.raises(MissingDatasetError, match=str(tmp_path)):
        read_fashion_mnist("train")


LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "magic number"),
        (b"not gzip at all", "cannot be read"),
        (idx([3, 1, 4, 9])[:-6], "cannot be read"),
        (idx([3, 1, 4, 9])[:12], "cannot be read"),
        (idx([3, 1], lengths=(4,)), "2 bytes of data where its header promises 4"),
        (idx([3, 1, 4, 9], magic=0x803), "magic number 0x00000803"),
        (idx([3, 1, 4]), "3 labels for 4 images"),
        (idx([3, 1, 4, 10]), "labels must be 0 to 9, found 10"),
    ],
)
def test_damaged_files_are_refused_by_name(folder, content, reason):
    (folder / LABELS).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{LABELS}: .*{reason}") as caught:
        read_fashion_mnist("train", folder)
    assert not isinstance(caught.value, MissingDatasetError)

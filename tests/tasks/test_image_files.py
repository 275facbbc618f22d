import numpy as np
import pytest
from PIL import Image

from tasks import FolderImages
from tasks.image_files import in_colour

GRADIENT = np.arange(256, dtype=np.uint16).reshape(16, 16)


def saved(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "pixels"),
    [
        ("a.png", "I;16", GRADIENT * 257),
        ("a.tif", "I;16B", (GRADIENT * 257).astype(">u2")),
        ("a.pgm", "I", (GRADIENT * 257).astype(np.int32)),
        ("b.tif", "I", GRADIENT.astype(np.int32)),
        ("b.png", "L", GRADIENT.astype(np.uint8)),
    ],
)
def test_grey_of_any_depth_keeps_its_levels(tmp_path, name, mode, pixels):
    with Image.open(saved(tmp_path / name, pixels)) as picture:
        assert picture.mode == mode
        levels = np.asarray(in_colour(picture))
    assert np.array_equal(levels, np.repeat(GRADIENT[..., None], 3, axis=2))


def test_levels_between_are_rounded():
    dark = Image.fromarray(np.array([[0, 128, 129, 255, 385, 386]], dtype=np.uint16))
    assert np.asarray(in_colour(dark))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2]


def test_a_folder_of_16_bit_images_is_not_white(tmp_path):
    for name in ("a", "b"):
        for index in range(5):
            saved(tmp_path / name / f"{index}.png", GRADIENT * 257)
    images = FolderImages(tmp_path, image=16)
    assert images.mean.tolist() == pytest.approx([127.5] * 3)

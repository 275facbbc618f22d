"""Patch-source: a folder of real JPEGs in classes, cut out of the photographs that Python packages ship.

A class is a photograph, an image a crop of it; the question is which photograph it is from. Each photograph
is divided into 4 by 4 cells; crops lie within one cell, and one cell of every row and column is held out for
validation, so that no pixel is in both splits.

The photographs are those in the wheels of scikit-image, scikit-learn and matplotlib. Eleven are in colour (a
second view of the same motorcycle is left out) and eight, for more classes, are grey. Nothing is downloaded.

    python -m tasks.patch_source runs/patch-source
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageStat

from tasks.datasets import MissingDatasetError
from tasks.files import writable_folder

SOURCES = {
    "skimage": (
        "data",
        (
            *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"),
            *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
            *("brick.png", "camera.png", "cell.png", "clock_motion.png", "coins.png", "grass.png"),
            *("gravel.png", "moon.png"),
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
}
"""Folder and file names in each package."""

PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
CELLS = 4
HELD_OUT = (1, 3, 0, 2)
"""Column of the cell that validates, in each row."""

SIDES = (64, 128)
PLAIN = 4.0
"""Standard deviation, in grey levels, below which a crop is drawn again: black corners say nothing."""

ATTEMPTS = 30
QUALITY = 90


@dataclass(frozen=True)
class PatchCounts:
    """How many images a class gets in each split, divided evenly over its cells.

    Attributes:
        train: For training, from 12 cells.
        validation: For validation, from 4 cells.
    """

    train: int = 120
    validation: int = 32

    def __post_init__(self) -> None:
        cells = CELLS * (CELLS - 1)
        if self.train < cells or self.train % cells:
            raise ValueError(f"train is {self.train}; expected a multiple of {cells}")
        if self.validation < CELLS or self.validation % CELLS:
            raise ValueError(f"validation is {self.validation}; expected a multiple of {CELLS}")


def find_photographs() -> list[Path]:
    """Where the photographs are, in the order of the classes.

    Raises:
        MissingDatasetError: If one is not installed; the message names the package that brings it.
    """
    photographs = []
    for package, (folder, names) in SOURCES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise MissingDatasetError(
                f"the photographs of {PACKAGES[package]} are not there: pip install {PACKAGES[package]}"
            )
        photographs += [Path(spec.origin).parent / folder / name for name in names]
    missing = [path for path in photographs if not path.is_file()]
    if missing:
        raise MissingDatasetError(f"{missing[0]} is not there; this version of the package has no such file")
    return sorted(photographs, key=lambda path: path.stem)


def write_patches(folder: Path, counts: PatchCounts | None = None, *, seed: int = 0) -> int:
    """Write ``train`` and ``validation`` folders with one folder of JPEGs a class.

    The same seed draws the same crops; their bytes depend on the JPEG encoder that Pillow was built with.

    Args:
        folder: Made if need be; files of the same names are replaced.
        counts: Images of a class.
        seed: Draws places and sizes of the crops.

    Returns:
        The number of images.

    Raises:
        MissingDatasetError: As `find_photographs`.
        OSError: If the folder cannot be written.
    """
    counts = counts or PatchCounts()
    written = 0
    for path in find_photographs():
        generator = random.Random(f"{seed}/{path.name}")
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        for split, count in (("train", counts.train), ("validation", counts.validation)):
            target = writable_folder(folder / split / path.stem)
            for index, crop in enumerate(_crops(photograph, split, count, generator)):
                crop.save(target / f"{index:04}.jpg", quality=QUALITY)
                written += 1
    return written


def _crops(
    photograph: Image.Image, split: str, count: int, generator: random.Random
) -> Iterator[Image.Image]:
    """Crops of the cells of a split, equally many of each."""
    cells = [
        (row, column)
        for row in range(CELLS)
        for column in range(CELLS)
        if (HELD_OUT[row] == column) == (split == "validation")
    ]
    for row, column in cells:
        left, top = (photograph.width * column) // CELLS, (photograph.height * row) // CELLS
        right, bottom = (photograph.width * (column + 1)) // CELLS, (photograph.height * (row + 1)) // CELLS
        cell = photograph.crop((left, top, right, bottom))
        for _ in range(count // len(cells)):
            yield _crop(cell, generator)


def _crop(cell: Image.Image, generator: random.Random) -> Image.Image:
    """A square of a cell; of several that are plain the least so."""
    best, variation = cell, -1.0
    for _ in range(ATTEMPTS):
        largest = min(*cell.size, SIDES[1])
        side = generator.randint(min(SIDES[0], largest), largest)
        left, top = generator.randint(0, cell.width - side), generator.randint(0, cell.height - side)
        crop = cell.crop((left, top, left + side, top + side))
        spread = ImageStat.Stat(crop.convert("L")).stddev[0]
        if spread > variation:
            best, variation = crop, spread
        if variation >= PLAIN:
            break
    return best


def main() -> None:
    """Write the images into the folder that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.patch_source", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=PatchCounts.train, help="images of a class to train on")
    parser.add_argument(
        "--validation", type=int, default=PatchCounts.validation, help="images of a class to validate on"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        counts = PatchCounts(options.train, options.validation)
        written = write_patches(options.folder, counts, seed=options.seed)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{written:,} images of {len(find_photographs())} photographs in {options.folder}")


if __name__ == "__main__":
    main()

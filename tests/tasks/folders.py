"""Folders of generated photographs."""

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 50), "red": (220, 40, 30)}


def picture(name, index, size=(40, 30)):
    """A noisy image of one colour, another for every index."""
    noise = np.random.default_rng(index).normal(0, 20, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def write_folder(root, *, count=10, names=COLOURS):
    """``count`` JPEGs of each name in a subfolder of that name."""
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(name, index).save(root / name / f"{index:03}.jpg", quality=95)
    return root

"""Small training runs on a folder of JPEGs, and what they came to."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
TIMES = ("seconds", "images_per_second", "step_seconds", "optimizer_share", "waiting_share")


def write_images(folder: Path, *, train: int = 12, validation: int = 4) -> Path:
    """Small noisy JPEGs of three colours, in classes and splits."""
    generator = random.Random(0)
    for split, count in (("train", train), ("validation", validation)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (40, 32), colour)
                for _ in range(40):
                    place = generator.randrange(40), generator.randrange(32)
                    image.putpixel(place, tuple(generator.randrange(256) for _ in range(3)))
                image.save(folder / split / name / f"{index}.jpg")
    return folder


def command(data: Path, out: Path, *options: str) -> list[str]:
    """A small run: three steps of 12 images an epoch."""
    small = [
        "--data",
        str(data),
        "--image-size",
        "16",
        "--batch-size",
        "12",
        "--epochs",
        "2",
        "--workers",
        "0",
    ]
    return ["train", *small, "--log-every", "1", *options, "--out", str(out)]


def outcome(out: Path) -> dict[str, Any]:
    """All that a run came to, without times."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)["trainer"]
    del state["progress"]["seconds"]
    lines = [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for name in ("metrics.jsonl", "log.jsonl")
        for line in (out / name).read_text().splitlines()
    ]
    return {"state": state, "lines": lines}


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values differ, by a bit."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [found for key in left for found in differences(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [found for index, pair in pairs for found in differences(*pair, f"{path}/{index}")]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if torch.equal(left, right) else [path]
    return [] if left == right else [path]

"""The parts of a set of pictures of one's own: those that are there, and what is held out for those that are not."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from course_utils.data.image_tensors import Images, channel_statistics, cut
from course_utils.data.own_images import Channels, read_own
from course_utils.data.splits import stratified

HELD_FOR_TEST = 0.2  # of the images of a path that has no test part


def _hold_out_own(images: Images, count: int, part: str) -> tuple[Images, Images]:
    """About ``count`` images of one's own, each class its share; the same picture twice is never on both sides."""
    pictures = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images.x]
    rows = stratified(pictures, [images.classes[y] for y in images.y.tolist()], min(count, len(images)), seed=0)
    if not rows:
        raise ValueError(f"{images.name} has {len(images)} images, too few to hold some out for {part}: give more")
    held_out = torch.zeros(len(images), dtype=torch.bool)
    held_out[rows] = True
    return cut(images, held_out)


def load_own(
    name: str, validation: float, pixels: int | None, channels: Channels, mirrored: bool
) -> tuple[Images, Images | None, Images]:
    """The parts that a folder or a file of one's own has; those that it has not are held out of its training images."""
    found = read_own(name, pixels, channels)
    parts: dict[str, Images] = {}
    for part, (x, y) in found.arrays.items():
        tensors = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y)
        parts[part] = Images(*tensors, found.classes, Path(name).name, None, mirrored, None, found.files[part])
    train, whole = parts["train"], len(parts["train"])
    if "test" not in parts:
        train, parts["test"] = _hold_out_own(train, round(HELD_FOR_TEST * whole), "test")
    if "validation" not in parts and validation:
        train, parts["validation"] = _hold_out_own(train, round(validation * whole), "validation")
    train = replace(train, statistics=channel_statistics(train.x))
    held = parts.get("validation") if validation else None
    seen = {
        key: replace(part, statistics=train.statistics) for key, part in (("v", held), ("t", parts["test"])) if part
    }
    return train, seen.get("v"), seen["t"]

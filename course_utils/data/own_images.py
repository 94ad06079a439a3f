"""Pictures of one's own as an image set: a folder with a folder for each class, or an ``.npz`` of arrays.

::

    pets/cat/1.jpg  pets/dog/a.png ...            one part: what is missing is held out of it
    pets/train/cat/1.jpg ... pets/test/cat/7.jpg  parts that are there already; validation too, if it is there

Nothing is dropped: a picture that cannot be read refuses the set, and files that are no pictures are counted.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Channels = Literal["own", "grey", "colour"]
PARTS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}
KEPT = 96  # pictures of one size up to this stay as they are
PIXELS = 64  # the side of all others, if nobody says it

log = logging.getLogger("course_utils.data")


@dataclass(frozen=True)
class OwnSet:
    """What was read.

    Args:
        arrays: ``"train"`` and, where they are there, ``"validation"`` and ``"test"``: x uint8 ``[N, C, H, W]``, y
            int64 ``[N]``.
        files: of each part, what each row is called: a path below the set, or the number of a row.
    """

    classes: tuple[str, ...]
    arrays: dict[str, tuple[np.ndarray, np.ndarray]]
    files: dict[str, np.ndarray]


def read_own(path: str | Path, pixels: int | None = None, channels: Channels = "own") -> OwnSet:
    """The pictures of a folder, or of an ``.npz`` file.

    Args:
        pixels: the side of the square that each picture is brought to. None: pictures of one size up to 96 stay, others
            become 64 x 64.
        channels: ``"own"``: grey if all are grey, else colour.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a picture or an array that cannot be read, fewer than two classes, a class without pictures.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or file {path}: check the path")
    found = _read_npz(path, pixels, channels) if path.is_file() else _read_folder(path, pixels, channels)
    if len(found.classes) < 2:
        raise ValueError(f"{path} holds {len(found.classes)} classes, expected 2 or more: a folder for each")
    return found


def read_picture(path: str | Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """A picture file as uint8 ``[channels, height, width]``, brought to that size, whatever its own proportions.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is no picture that can be read.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            image = _flat(upright).convert("L" if channels == 1 else "RGB").resize(size[::-1])
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}: check the path") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path} is no picture that can be read ({error}): convert it to PNG or JPEG") from None
    return np.asarray(image).reshape(*size, channels).transpose(2, 0, 1)


def _flat(image: Image.Image) -> Image.Image:
    """Without what PIL converts wrongly: 16 bits to a pixel, and transparency, behind which it finds black."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image


# ---- folders -----------------------------------------------------------------------------------------------------


def _read_folder(root: Path, pixels: int | None, channels: Channels) -> OwnSet:
    folders = {
        part: next((root / name for name in names if (root / name).is_dir()), None) for part, names in PARTS.items()
    }
    parts = {part: folder for part, folder in folders.items() if folder} if folders["train"] else {"train": root}
    classes = tuple(sorted(each.name for each in parts["train"].iterdir() if each.is_dir() and each.name[0] != "."))
    listed = {part: _pictures(folder, classes) for part, folder in parts.items()}
    every = [file for files in listed.values() for _, file in files]
    grey, sizes = _kinds(every)
    depth = {"own": 1 if grey else 3, "grey": 1, "colour": 3}[channels]
    side = pixels or PIXELS
    if pixels is None and len(sizes) == 1 and max(next(iter(sizes))) <= KEPT:
        width, height = next(iter(sizes))
    else:
        width = height = side
        log.warning(
            "%s: pictures of %d sizes, most of them %d x %d, are brought to %d x %d pixels%s",
            *(root, len(sizes), *sizes.most_common(1)[0][0], side, side, "" if pixels else ": --pixels for another"),
        )
    arrays = {}
    for part, files in listed.items():
        x = np.stack([_read(file, depth, (height, width)) for _, file in files])
        arrays[part] = x, np.array([label for label, _ in files], np.int64)
    names = {part: np.array([file.relative_to(root).as_posix() for _, file in files]) for part, files in listed.items()}
    return OwnSet(classes, arrays, names)


def _pictures(folder: Path, classes: tuple[str, ...]) -> list[tuple[int, Path]]:
    """The picture files of each class, in the order of their names; with the number of the class."""
    endings = Image.registered_extensions()
    found, others = list[tuple[int, Path]](), 0
    if unknown := sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != "."):
        unknown = [name for name in unknown if name not in classes]
    if unknown:
        raise ValueError(f"{folder} holds the class {unknown[0]!r}, which the training pictures have not")
    for label, name in enumerate(classes):
        inside = folder / name
        files = [file for file in sorted(inside.rglob("*")) if file.is_file() and file.name[0] != "."]
        pictures = [file for file in files if file.suffix.lower() in endings]
        others += len(files) - len(pictures)
        if not pictures:
            raise ValueError(f"{inside} holds no picture: put some there, or remove the folder")
        found += [(label, file) for file in pictures]
    if others:
        log.warning("%s: %d files are no pictures by their names, and are not read", folder, others)
    if not found:
        raise ValueError(f"{folder} holds no folders with pictures: make one for each class")
    return found


def _kinds(files: list[Path]) -> tuple[bool, Counter[tuple[int, int]]]:
    """Whether all are grey, and how many there are of each size (width, height); only their headers are read."""
    grey, sizes = True, Counter[tuple[int, int]]()
    for file in files:
        try:
            with Image.open(file) as image:
                sizes[image.size] += 1
                grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} is no picture that can be read ({error}): remove it, or save it again") from None
    return grey, sizes


def _read(file: Path, depth: int, size: tuple[int, int]) -> np.ndarray:
    try:
        return read_picture(file, depth, size)
    except OSError as error:
        raise ValueError(str(error)) from None


# ---- arrays ------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, pixels: int | None, channels: Channels) -> OwnSet:
    advice = "make it with np.savez(path, x_train=..., y_train=...), and x_test=..., y_test=... if they are there"
    if pixels is not None or channels != "own":
        raise ValueError(f"{path} is an array of pixels: they stay as they are; leave out pixels and channels")
    try:
        # allow_pickle=False: an array of Python objects is a pickle, and loading a stranger's pickle runs his code.
        with np.load(path, allow_pickle=False) as file:
            content = {key: file[key] for key in file}
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}; {advice}") from None
    if "x" in content and "y" in content:
        content |= {"x_train": content["x"], "y_train": content["y"]}
    if not {"x_train", "y_train"} <= content.keys():
        raise ValueError(f"{path} has no x_train and y_train, only {', '.join(content) or 'nothing'}: {advice}")
    parts = [part for part in PARTS if f"x_{part}" in content and f"y_{part}" in content]
    pixels_of = {part: _pixels(content[f"x_{part}"], f"{path}: x_{part}") for part in parts}
    labels = {part: content[f"y_{part}"].reshape(-1) for part in parts}
    for part in parts:
        if labels[part].dtype.kind not in "uiU" or len(labels[part]) != len(pixels_of[part]):
            raise ValueError(
                f"{path}: y_{part} is {labels[part].dtype} {list(labels[part].shape)}, expected one whole number or "
                f"one word for each of {len(pixels_of[part]):,} pictures"
            )
        if pixels_of[part].shape[1:] != pixels_of["train"].shape[1:]:
            raise ValueError(f"{path}: x_{part} and x_train are of other shapes: bring them to the same")
    values = np.unique(labels["train"])
    names = content.get("classes", values)
    if len(names) < len(values) or ("classes" in content and labels["train"].dtype.kind == "U"):
        raise ValueError(f"{path}: there are {len(names)} classes and {len(values)} labels: name each label once")
    places = {
        value: place for place, value in enumerate(range(len(names)) if "classes" in content else values.tolist())
    }
    arrays = {}
    for part in parts:
        if strange := set(labels[part].tolist()) - places.keys():
            raise ValueError(f"{path}: y_{part} holds the label {min(strange)!r}, which is no class of x_train")
        arrays[part] = pixels_of[part], np.array([places[value] for value in labels[part].tolist()], np.int64)
    rows = {part: np.array([f"{part} {row}" for row in range(len(labels[part]))]) for part in parts}
    return OwnSet(tuple(str(name) for name in names), arrays, rows)


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` bytes as the last of them."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size:
        raise ValueError(
            f"{where} is {x.dtype} {list(x.shape)}, expected uint8 [N, H, W] or [N, H, W, 3]: bytes, 0 to 255"
        )
    if x.ndim == 3:
        return x[:, None]
    if x.shape[3] in (1, 3):
        return x.transpose(0, 3, 1, 2)
    if x.shape[1] in (1, 3):
        return x
    raise ValueError(f"{where} has shape {list(x.shape)}: expected 1 or 3 channels, last")

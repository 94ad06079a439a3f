"""The image sets by name. A set is one entry here: how it is read, its classes, and what may be done to its images.

To add a set, write a function that reads it, and enter it: ``IMAGE_SETS["mine"] = ImageSet("mine", classes, read)``.
Nothing else in the course knows a set by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils.data.builtin import DIGITS_CLASSES, FASHION_CLASSES, read_digits, read_fashion
from course_utils.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES, Arrays, read_cifar10, read_cifar100


@dataclass(frozen=True)
class ImageSet:
    """One image set.

    Args:
        name: what a run calls it.
        classes: the names of the classes, in the order of the labels 0, 1, ...
        read: ``read()``, or ``read(root, download)`` for a set that ``needs`` something, gives both splits. It raises
            ``ValueError`` for data that are not what they should be, ``FileNotFoundError``, ``ConnectionError``.
        may_be_mirrored: whether a mirrored image still shows its class. A mirrored 2 is no digit.
        padding: pixels by which a training image may be shifted at its own size; None: an eighth of its side.
        needs: what has to be given as ``root``, in words; None for a set that is part of the package.
    """

    name: str
    classes: tuple[str, ...]
    read: Callable[..., Arrays]
    may_be_mirrored: bool = True
    padding: int | None = None
    needs: str | None = None


CIFAR = "torchvision's folder, or an .npz file"
IMAGE_SETS = {
    each.name: each
    for each in (
        ImageSet("fashion", FASHION_CLASSES, read_fashion, padding=2),
        ImageSet("digits", DIGITS_CLASSES, read_digits, may_be_mirrored=False, padding=1),
        ImageSet("cifar10", CIFAR10_CLASSES, read_cifar10, padding=4, needs=CIFAR),
        ImageSet("cifar100", CIFAR100_CLASSES, read_cifar100, padding=4, needs=CIFAR),
    )
}
NAMES = IMAGE_SETS.keys()  # follows what is entered later


def is_path(name: str) -> bool:
    """Whether this is a path to images of one's own rather than the name of a set."""
    return name not in NAMES and ("/" in name or "\\" in name or name.endswith(".npz") or Path(name).is_dir())


def image_set(name: str) -> ImageSet:
    """The entry of a set. Raises ``ValueError``, which says what there is, for a name that was not entered."""
    if name not in IMAGE_SETS:
        *others, last = map(repr, NAMES)
        raise ValueError(
            f"there is no image set {name!r}: choose {', '.join(others)} or {last}, or give the path of "
            "a folder with a folder of pictures for each class, or of an .npz file"
        )
    return IMAGE_SETS[name]

"""CIFAR-10 and CIFAR-100 from a path: torchvision's folder, or one ``.npz`` of arrays; nothing that was not checked.

Source of the set: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
KEYS = ("x_train", "y_train", "x_test", "y_test")

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test" -> x uint8 [N, C, H, W], y integers [N]


def read_cifar10(root: str | Path | None, download: bool) -> Arrays:
    """Both splits of CIFAR-10; as :func:`read_cifar`."""
    return read_cifar(root, download, len(CIFAR10_CLASSES))


def read_cifar100(root: str | Path | None, download: bool) -> Arrays:
    """Both splits of CIFAR-100 with its 100 fine labels; as :func:`read_cifar`."""
    return read_cifar(root, download, len(CIFAR100_CLASSES))


def read_cifar(root: str | Path | None, download: bool, classes: int) -> Arrays:
    """Both splits. See :func:`course_utils.data.images.load_splits` for what ``root`` may be and what is raised."""
    if root is None:
        raise ValueError(
            f"'cifar{classes}' is not part of the package: give root=FOLDER as torchvision lays it out, "
            f"root=FILE.npz with {', '.join(KEYS)}, or root=FOLDER and download=True"
        )
    path = Path(root)
    if path.suffix == ".npz":
        if download:
            raise ValueError(f"download=True fetches into a folder, but root is the file {path}: give a folder")
        return _read_npz(path, classes)
    return _read_torchvision(path, download, classes)


def _read_npz(path: Path, classes: int) -> Arrays:
    advice = f"make it with np.savez(path, {', '.join(f'{key}=...' for key in KEYS)})"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: check root, or {advice}")
    try:
        # allow_pickle=False: an array of Python objects is a pickle, and loading a stranger's pickle runs his code.
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(file) or 'nothing'}")
            arrays = {key: file[key] for key in KEYS}
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as CIFAR-{classes}: {error or type(error).__name__}; {advice}"
        ) from None
    return {
        split: _checked(arrays[f"x_{split}"], arrays[f"y_{split}"], split, path, classes) for split in ("train", "test")
    }


def _checked(x: np.ndarray, y: np.ndarray, split: str, path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    if x.dtype != np.uint8 or x.shape[1:] != (32, 32, 3) or len(x) == 0:
        raise ValueError(
            f"{path}: x_{split} is {x.dtype} {list(x.shape)}, expected uint8 [N, 32, 32, 3] (height, width, RGB): "
            "store the original bytes, channels last"
        )
    if y.dtype.kind not in "ui" or y.shape != x.shape[:1]:
        raise ValueError(
            f"{path}: y_{split} is {y.dtype} {list(y.shape)}, expected integers [{len(x)}], one class for each image "
            "(labels of shape [N, 1]: y.reshape(-1))"
        )
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"{path}: y_{split} holds labels from {y.min()} to {y.max()}, expected 0 to {classes - 1}")
    return x.transpose(0, 3, 1, 2), y.astype(np.int64)


def _read_torchvision(folder: Path, download: bool, classes: int) -> Arrays:
    from torchvision import datasets

    kind = getattr(datasets, f"CIFAR{classes}")
    if download:
        _download(folder, kind)
    elif not (folder / kind.base_folder).is_dir():
        found = "does not exist" if not folder.exists() else f"holds no folder {kind.base_folder}"
        raise FileNotFoundError(
            f"{folder} {found}: unpack {kind.filename} there, give an .npz file, or "
            "pass download=True (needs a network)"
        )
    try:
        # torchvision unpickles the files, but only after their MD5 sums were found to be those of the original.
        train, test = (kind(folder, train=is_train) for is_train in (True, False))
    except RuntimeError as error:
        raise ValueError(
            f"{folder / kind.base_folder} is incomplete or not the original ({error}): delete it, then unpack "
            f"{kind.filename} (MD5 {kind.tgz_md5}) there or pass download=True"
        ) from None
    return {
        split: (np.asarray(part.data).transpose(0, 3, 1, 2), np.asarray(part.targets, np.int64))
        for split, part in (("train", train), ("test", test))
    }


def _download(folder: Path, kind: Any) -> None:
    """Fetch the set, unless it is there. Of several processes one fetches and the others wait: four that write the same
    file at once leave one that nobody can read. torchvision compares the MD5 sum before it unpacks, and then those of
    the files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            kind(folder, download=True)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise ConnectionError(
            f"{kind.__name__} could not be downloaded from {kind.url} to {folder} ({error}): check the network and the "
            "disk, or fetch the file elsewhere and pass its folder as root without download"
        ) from None

"""CIFAR-10 from a path: torchvision's folder, or one ``.npz`` of arrays; never anything that was not checked.

Source of the set: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KEYS = ("x_train", "y_train", "x_test", "y_test")

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test" -> x uint8 [N, C, H, W], y integers [N]


def read_cifar10(root: str | Path | None, download: bool) -> Arrays:
    """Both splits. See :func:`course_utils.data.images.load_splits` for what ``root`` may be and what is raised."""
    if root is None:
        raise ValueError(
            "'cifar10' is not part of the package: give root=FOLDER as torchvision lays it out, root=FILE.npz with "
            f"{', '.join(KEYS)}, or root=FOLDER and download=True"
        )
    path = Path(root)
    if path.suffix == ".npz":
        if download:
            raise ValueError(f"download=True fetches into a folder, but root is the file {path}: give a folder")
        return _read_npz(path)
    return _read_torchvision(path, download)


def _read_npz(path: Path) -> Arrays:
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
        raise ValueError(f"{path} cannot be read as CIFAR-10: {error or type(error).__name__}; {advice}") from None
    return {split: _checked(arrays[f"x_{split}"], arrays[f"y_{split}"], split, path) for split in ("train", "test")}


def _checked(x: np.ndarray, y: np.ndarray, split: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
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
    if y.min() < 0 or y.max() > 9:
        raise ValueError(f"{path}: y_{split} holds labels from {y.min()} to {y.max()}, expected 0 to 9")
    return x.transpose(0, 3, 1, 2), y.astype(np.int64)


def _read_torchvision(folder: Path, download: bool) -> Arrays:
    from torchvision.datasets import CIFAR10

    if download:
        _download(folder)
    elif not (folder / CIFAR10.base_folder).is_dir():
        found = "does not exist" if not folder.exists() else f"holds no folder {CIFAR10.base_folder}"
        raise FileNotFoundError(
            f"{folder} {found}: unpack {CIFAR10.filename} there, give an .npz file, or "
            "pass download=True (needs a network)"
        )
    try:
        # torchvision unpickles the files, but only after their MD5 sums were found to be those of the original.
        train, test = (CIFAR10(folder, train=is_train) for is_train in (True, False))
    except RuntimeError as error:
        raise ValueError(
            f"{folder / CIFAR10.base_folder} is incomplete or not the original ({error}): delete it, then unpack "
            f"{CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) there or pass download=True"
        ) from None
    return {
        split: (np.asarray(part.data).transpose(0, 3, 1, 2), np.asarray(part.targets, np.int64))
        for split, part in (("train", train), ("test", test))
    }


def _download(folder: Path) -> None:
    """Fetch the set, unless it is there. Of several processes one fetches and the others wait: four that write the same
    file at once leave one that nobody can read. torchvision compares the MD5 sum before it unpacks, and then those of
    the files."""
    from torchvision.datasets import CIFAR10

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            CIFAR10(folder, download=True)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise ConnectionError(
            f"CIFAR-10 could not be downloaded from {CIFAR10.url} to {folder} ({error}): check the network and the "
            "disk, or fetch the file elsewhere and pass its folder as root without download"
        ) from None

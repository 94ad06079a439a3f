"""Make the embedded image set: a balanced subset of Fashion-MNIST, as two PNG sheets.

    python -m tools.make_fashion FOLDER     # FOLDER holds the four *-ubyte.gz files

The files are those of https://github.com/zalandoresearch/fashion-mnist, as Debian's package ``dataset-fashion-mnist``
or torchvision's ``FashionMNIST`` bring them; the digests below are of the unpacked bytes, for each packs them anew. A
sheet holds its images sorted by class, a hundred to a row: a PNG, because its filters pack these images better than
``np.savez_compressed`` (4.7 MB against 5.3 MB), every Pillow reads it, and one can look at it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils.files import atomic_write

EMBEDDED = Path(__file__).parents[1] / "course_utils" / "data" / "embedded"
SEED = 0
PER_CLASS = {"train": 1000, "test": 200}
COLUMNS = 100  # images in a row of the sheet

SOURCES = {  # split: (images, SHA-256 of the unpacked file), (labels, SHA-256 of the unpacked file)
    "train": (
        ("train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}


def read(path: Path, digest: str, header: int) -> np.ndarray:
    """The bytes of one IDX file, unpacked, checked and without its header of ``header`` bytes."""
    raw = gzip.decompress(path.read_bytes())
    found = hashlib.sha256(raw).hexdigest()
    if found != digest:
        raise ValueError(f"{path}: the unpacked bytes have SHA-256 {found}, expected {digest}: fetch the file again")
    return np.frombuffer(raw, np.uint8, offset=header)


def choose(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices [10, per_class] of a seeded random choice, one row for each class."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)])


def sheet(images: np.ndarray) -> np.ndarray:
    """Images [N, 28, 28] laid out on one large image [N / 100 * 28, 100 * 28], row by row."""
    rows = images.reshape(-1, COLUMNS, 28, 28)  # [row, column, 28, 28]
    return rows.transpose(0, 2, 1, 3).reshape(-1, COLUMNS * 28)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded image set from Fashion-MNIST.")
    parser.add_argument("folder", type=Path, help="where the four *-ubyte.gz files are")
    folder = parser.parse_args().folder
    for split, ((images_name, images_digest), (labels_name, labels_digest)) in SOURCES.items():
        images = read(folder / images_name, images_digest, header=16).reshape(-1, 28, 28)
        labels = read(folder / labels_name, labels_digest, header=8)
        pixels = sheet(images[choose(labels, PER_CLASS[split], SEED).reshape(-1)])
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "PNG", optimize=True)
        with atomic_write(EMBEDDED / f"fashion_{split}.png") as file:
            file.write(packed.getvalue())
        checksum = hashlib.sha256(pixels.tobytes()).hexdigest()
        print(f"fashion_{split}.png: {packed.tell():,} bytes; SHA-256 of its pixels {checksum}")


if __name__ == "__main__":
    main()

"""Image sets as tensors in memory, and batches of them. Which sets there are: :mod:`course_utils.data.image_sets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from course_utils.data.image_sets import image_set, is_path
from course_utils.data.image_tensors import Images, cut
from course_utils.data.own_images import Channels
from course_utils.data.own_splits import load_own
from course_utils.data.transforms import Augment, Mix

PIECE = 32  # images that share a generator


class Splits(NamedTuple):
    """The parts of one image set, all to be normalised with the statistics of ``train``."""

    train: Images
    validation: Images | None
    test: Images


def load_splits(
    name: str = "fashion",
    *,
    root: str | Path | None = None,
    download: bool = False,
    validation: float = 0.0,
    seed: int = 0,
    pixels: int | None = None,
    channels: Channels = "own",
    mirrored: bool = False,
) -> Splits:
    """All parts of an image set, which is read once; the statistics of the training images are worked out once.

    Args:
        name: ``"fashion"``: 10,000 + 2,000 grey images of clothing, 28 x 28, balanced. ``"digits"``: 1,437 + 360 grey
            handwritten digits, 8 x 8, 17 grey levels. ``"cifar10"``: 50,000 + 10,000 colour photographs, 32 x 32. Or
            what was entered in :data:`~course_utils.data.image_sets.IMAGE_SETS`. Or a path: see
            :mod:`course_utils.data.own_images`; of a set without a test part a fifth is held out, class by class.
            Nothing falls back to another set.
        root: for ``"cifar10"`` and ``"cifar100"`` only: the folder torchvision uses (it holds
            ``cifar-10-batches-py``), or an ``.npz`` file with the uint8 arrays ``x_train`` [N, 32, 32, 3],
            ``y_train`` [N], ``x_test``, ``y_test``.
        download: for both of these only: let torchvision fetch it into ``root`` first (170 MB). Of several
            processes in a group, the first of each machine fetches and the others wait.
        validation: the fraction of the training images that is held out, by ``seed``: see :func:`hold_out`. Of a path
            always the same are held out, or its own validation part is taken.
        pixels, channels: of a path, see :func:`~course_utils.data.own_images.read_own`.
        mirrored: of a path, whether a mirrored image still shows its class.

    Raises:
        ValueError: no such set, or data that are not what they should be.
        FileNotFoundError: nothing at ``root``.  ConnectionError: it could not be downloaded.
    """
    if is_path(name):
        if root is not None or download:
            raise ValueError(f"{name} is a path by itself: leave out root and download")
        try:
            return Splits(*load_own(name, validation, pixels, channels, mirrored))
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    entry = image_set(name)
    if pixels is not None or channels != "own" or mirrored:
        raise ValueError(f"pixels, channels and mirrored are for images of a path, and {name!r} is a set by name")
    if entry.needs is None and (root is not None or download):
        raise ValueError(f"{name!r} is built in: leave out root and download")
    arrays = entry.read() if entry.needs is None else entry.read(root, download)
    train, test = (
        Images(
            torch.from_numpy(np.ascontiguousarray(x)),
            torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64)),
            entry.classes,
            name,
            may_be_mirrored=entry.may_be_mirrored,
            padding=entry.padding,
        )
        for x, y in (arrays["train"], arrays["test"])
    )
    held_out: Images | None = None
    try:
        if validation:
            train, held_out = hold_out(train, validation, seed=seed)
        train = replace(train, statistics=train.mean_and_std)
    except ValueError as error:
        raise ValueError(f"{name}{f' from {root}' if root else ''}: {error}") from None
    return Splits(train, held_out, replace(test, statistics=train.statistics))


def load_images(
    name: str = "fashion",
    *,
    split: Literal["train", "test"] = "train",
    root: str | Path | None = None,
    download: bool = False,
) -> Images:
    """One of the two splits that a set comes in; see :func:`load_splits`, which reads the set once for all of them."""
    if split not in ("train", "test"):
        raise ValueError(
            f"there is no split {split!r}: choose 'train' or 'test'; for validation: load_splits({name!r}, "
            "validation=0.1)"
        )
    splits = load_splits(name, root=root, download=download)
    return splits.train if split == "train" else splits.test


def hold_out(images: Images, fraction: float = 0.1, *, seed: int = 0) -> tuple[Images, Images]:
    """Cut training images into a part to train on and a validation part, class by class, at random by ``seed``.

    Models are compared on the validation part; the test set is for the one model that was chosen. The statistics of
    both parts are those of the part to train on.

    Returns:
        ``(train, validation)``; both keep the order of the images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected between 0 and 1 (0.1 holds out a tenth)")
    rng = np.random.default_rng(seed)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    for c in range(len(images.classes)):
        members = np.flatnonzero(images.y.numpy() == c)
        held_out[torch.from_numpy(rng.permutation(members)[: round(fraction * len(members))])] = True
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"a fraction of {fraction} of {len(images)} images leaves one part empty: choose another fraction"
        )
    return cut(images, held_out)


def batches(
    images: Images,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    mix: Mix | None = None,
    size: int | tuple[int, int] | None = None,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of batches, normalised on the fly: pairs of x float32 [B, C, H, W] and y int64 [B] on ``device``.

    Order, augmentation and mixing are functions of ``seed``, ``epoch`` and an image's place in its batch; the global
    generators are not touched. So two epochs differ, a run that is resumed sees what it would have seen, and so do
    several processes together: random numbers are drawn for pieces of 32 images, whoever works them out.

    Args:
        batch_size: images of one step, of all processes together.
        augment: ``augment(x, generator)`` on uint8 images at their own size, such as
            :func:`~course_utils.data.transforms.crop_and_flip`; it must draw from ``generator`` only.
        mix: ``mix(x, y, generator)``, after normalising, which makes soft labels y float32 [B, classes].
        size: pixels of what comes out, one number or (height, width): enlarged last, on ``device``, so that nothing
            else is paid for pixels that hold no information.
        drop_last: leave out the last batch when it is smaller than the others.
        rank, world_size: this process gets its contiguous share of each batch, and all of them each image once. In
            training pass ``drop_last=True`` too, or of a small last batch some processes may have no share, and no
            step.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size} processes, expected 0 to {world_size - 1}")
    if batch_size < world_size:
        raise ValueError(
            f"batch_size {batch_size} leaves some of {world_size} processes without an image: choose {world_size} or "
            "more, or start fewer processes"
        )
    if drop_last and batch_size > len(images):
        raise ValueError(
            f"batch_size {batch_size} is larger than the set ({len(images)}): drop_last leaves no batch at all"
        )
    mean, std = (v.to(device).view(1, -1, 1, 1) * 255 for v in images.mean_and_std)  # in units of a uint8 step
    generator = torch.Generator().manual_seed(_seed_from(seed, epoch))
    order = torch.randperm(len(images), generator=generator) if shuffle else torch.arange(len(images))
    for number, indices in enumerate(order.split(batch_size)):
        if drop_last and len(indices) < batch_size:
            return
        begin, end = (len(indices) * r // world_size for r in (rank, rank + 1))
        if begin == end:
            continue
        pieces, first = _pieces(begin, end)  # slices of the batch that cover this share
        parts = []
        for piece in pieces:
            own = torch.Generator().manual_seed(_seed_from(seed, epoch, number, piece.start))
            x, y = images.x[indices[piece]], images.y[indices[piece]]
            if augment is not None:
                x = augment(x, own)
            x, y = _moved(x, device), _moved(y, device)
            x = (x.float() - mean) / std
            parts.append((x, y) if mix is None else mix(x, y, own))
        x, y = (torch.cat(p)[begin - first : end - first] for p in zip(*parts, strict=True))
        yield (
            (x if size is None else resize(x, [size, size] if isinstance(size, int) else list(size), antialias=True)),
            y,
        )


def _pieces(begin: int, end: int) -> tuple[list[slice], int]:
    """The pieces of :data:`PIECE` images that overlap ``begin`` to ``end``, and where the first of them begins."""
    first = begin // PIECE * PIECE
    return [slice(start, start + PIECE) for start in range(first, end, PIECE)], first


def _moved(x: Tensor, device: torch.device | str) -> Tensor:
    """From pinned memory a copy to a GPU runs while Python goes on."""
    return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else x.to(device)


def _seed_from(*numbers: int) -> int:
    """One seed from several. (``seed + epoch`` would give seed 1 at epoch 0 the order of seed 0 at epoch 1.)"""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

"""Image sets as tensors in memory, and batches of them.

Three sets, each under its name: ``"fashion"`` (embedded, see ``embedded/fashion.md``), ``"digits"`` (from scikit-learn)
and ``"cifar10"`` (from a path of yours, or downloaded). Nothing falls back to another set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.data.builtin import DIGITS_CLASSES, FASHION_CLASSES, read_digits, read_fashion
from course_utils.data.cifar import CIFAR10_CLASSES, read_cifar10

Name = Literal["fashion", "digits", "cifar10"]
Split = Literal["train", "test"]
Augment = Callable[[Tensor, torch.Generator], Tensor]  # uint8 [B, C, H, W] -> uint8 [B, C, H, W]

CLASSES: dict[str, tuple[str, ...]] = {
    "fashion": FASHION_CLASSES,
    "digits": DIGITS_CLASSES,
    "cifar10": CIFAR10_CLASSES,
}


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        x: uint8 [N, C, H, W].
        y: int64 [N], indices into ``classes``.
        classes: the names of the classes.
        name: of the set.
        statistics: mean and standard deviation, each [C], that :func:`batches` normalises with: those of the *training*
            images, for the test images too. ``None``: those of ``x``.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    statistics: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.dim() != 4:
            raise ValueError(f"x is {self.x.dtype} {list(self.x.shape)}, expected torch.uint8 [N, C, H, W]")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(f"y is {self.y.dtype} {list(self.y.shape)}, expected torch.int64 [{len(self.x)}]")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Tensor | slice) -> Images:
        """The images at ``indices``, with the statistics of the whole."""
        return replace(self, x=self.x[indices], y=self.y[indices])


def load_images(
    name: Name = "fashion", *, split: Split = "train", root: str | Path | None = None, download: bool = False
) -> Images:
    """One split of an image set. For validation, hold out a part of the training images: :func:`hold_out`.

    Args:
        name: ``"fashion"``: 10,000 + 2,000 grey images of clothing, 28 x 28, balanced. ``"digits"``: 1,437 + 360 grey
            handwritten digits, 8 x 8, 17 grey levels. ``"cifar10"``: 50,000 + 10,000 colour photographs, 32 x 32.
        split: ``"train"`` or ``"test"``.
        root: for ``"cifar10"`` only: the folder torchvision uses (it holds ``cifar-10-batches-py``), or an ``.npz``
            file with the uint8 arrays ``x_train`` [N, 32, 32, 3], ``y_train`` [N], ``x_test``, ``y_test``.
        download: for ``"cifar10"`` only: let torchvision fetch it into ``root`` first (170 MB).

    Raises:
        ValueError: no such set or split, or data that are not what they should be.
        FileNotFoundError: nothing at ``root``.  ConnectionError: it could not be downloaded.
    """
    if name not in ("fashion", "digits", "cifar10"):
        raise ValueError(f"there is no image set {name!r}: choose 'fashion', 'digits' or 'cifar10'")
    if split not in ("train", "test"):
        raise ValueError(
            f"there is no split {split!r}: choose 'train' or 'test'; for validation: hold_out(load_images({name!r}))"
        )
    if name != "cifar10" and (root is not None or download):
        raise ValueError(f"{name!r} is built in: leave out root and download (they are for 'cifar10')")
    if name == "cifar10":
        arrays = read_cifar10(root, download)
    elif name == "fashion":
        arrays = {s: read_fashion(s) for s in ("train", "test")}
    else:
        arrays = read_digits()
    x, y = (torch.from_numpy(np.ascontiguousarray(a)) for a in arrays[split])
    train = x if split == "train" else torch.from_numpy(np.ascontiguousarray(arrays["train"][0]))
    return Images(x, y, CLASSES[name], name, channel_statistics(train))


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
    held = torch.zeros(len(images), dtype=torch.bool)
    for c in range(len(images.classes)):
        members = np.flatnonzero(images.y.numpy() == c)
        held[torch.from_numpy(rng.permutation(members)[: round(fraction * len(members))])] = True
    if not held.any() or held.all():
        raise ValueError(
            f"a fraction of {fraction} of {len(images)} images leaves one part empty: choose another fraction"
        )
    train, validation = images.take(~held), images.take(held)
    statistics = channel_statistics(train.x)
    return replace(train, statistics=statistics), replace(validation, statistics=statistics)


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels of all images.

    The deviation is that of the whole set, not the mean of the images' own deviations, which is smaller: it leaves out
    how far the images differ from each other in brightness. Sums are kept in float64.

    Args:
        x: [N, C, H, W]; uint8 counts as 0 to 1 (divided by 255), floats as they are.

    Returns:
        ``(mean, std)``, float32 [C] each; std divides by N * H * W.

    Raises:
        ValueError: another shape, no image, or a channel that is the same everywhere (it cannot be normalised).
    """
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"x has shape {list(x.shape)}, expected [N, C, H, W] with at least one image")
    unit = 255.0 if x.dtype == torch.uint8 else 1.0
    chunks = x.split(1024)  # a float64 copy of the whole set would take eight times its memory
    count = x.numel() // x.shape[1]
    total = torch.stack([c.double().sum((0, 2, 3)) for c in chunks]).sum(0)  # [C]
    mean = total / count
    squares = torch.stack([(c.double() - mean[:, None, None]).square().sum((0, 2, 3)) for c in chunks]).sum(0)
    std = (squares / count).sqrt()
    if (std == 0).any():
        raise ValueError(f"channel {int((std == 0).nonzero()[0])} has the same value in every pixel: is it padding?")
    return (mean / unit).float(), (std / unit).float()


def batches(
    images: Images,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of batches, normalised on the fly: pairs of x float32 [B, C, H, W] and y int64 [B] on ``device``.

    Order and augmentation are functions of ``seed`` and ``epoch`` alone; the global generators are not touched. So two
    epochs differ, and a run that is resumed sees what it would have seen.

    Args:
        augment: ``augment(x, generator)`` on the uint8 batch, such as :func:`crop_and_flip`; it must draw from
            ``generator`` only.
        drop_last: leave out the last batch when it is smaller than the others.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if drop_last and batch_size > len(images):
        raise ValueError(
            f"batch_size {batch_size} is larger than the set ({len(images)}): drop_last leaves no batch at all"
        )
    mean, std = images.statistics or channel_statistics(images.x)
    mean, std = (v.to(device).view(1, -1, 1, 1) * 255 for v in (mean, std))  # in units of a uint8 step
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    order = torch.randperm(len(images), generator=generator) if shuffle else torch.arange(len(images))
    for indices in order.split(batch_size):
        if drop_last and len(indices) < batch_size:
            return
        x, y = images.x[indices], images.y[indices]
        if augment is not None:
            x = augment(x, generator)
        yield (x.to(device).float() - mean) / std, y.to(device)


def crop_and_flip(x: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift each image at random by up to ``padding`` pixels (its border repeated outwards) and mirror half of them.

    Four pixels of 32 are usual for CIFAR-10; take two for 28 x 28. Not for digits: a mirrored 2 is none.

    Args:
        x: uint8 [B, C, H, W].
    """
    batch, _, height, width = x.shape
    padded = F.pad(x.float(), (padding,) * 4, mode="replicate").to(x.dtype)  # [B, C, H + 2p, W + 2p]
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    columns = left[:, None] + torch.arange(width)  # [B, W]
    if flip:
        mirrored = torch.rand(batch, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows = top[:, None] + torch.arange(height)  # [B, H]
    image = torch.arange(batch)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)  # [B, H, W, C] -> [B, C, H, W]


def _mix(seed: int, epoch: int) -> int:
    """One seed from two. (``seed + epoch`` would give seed 1 at epoch 0 the order of seed 0 at epoch 1.)"""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

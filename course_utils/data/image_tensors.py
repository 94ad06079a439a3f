"""Labelled images as tensors in memory, and the statistics that they are normalised with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from course_utils.data.transforms import crop_and_flip


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
        may_be_mirrored: whether a mirrored image still shows its class.
        padding: pixels by which a training image may be shifted; ``None``: an eighth of its width.
        files: str [N], what each image was read from; ``None`` for a set that comes with the course.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    statistics: tuple[Tensor, Tensor] | None = None
    may_be_mirrored: bool = True
    padding: int | None = None
    files: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.dim() != 4:
            raise ValueError(f"x is {self.x.dtype} {list(self.x.shape)}, expected torch.uint8 [N, C, H, W]")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(f"y is {self.y.dtype} {list(self.y.shape)}, expected torch.int64 [{len(self.x)}]")
        if len(self) and not 0 <= self.y.min() <= self.y.max() < len(self.classes):
            raise ValueError(
                f"{self.name}: y holds labels from {self.y.min()} to {self.y.max()}, expected 0 to "
                f"{len(self.classes) - 1}, as there are {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """What these images are normalised with: ``statistics``, or else their own, worked out once."""
        return self.statistics or channel_statistics(self.x)

    def take(self, indices: Tensor | slice) -> Images:
        """The images at ``indices``, with the statistics of the whole."""
        return replace(self.part(indices), statistics=self.mean_and_std)

    def part(self, indices: Tensor | slice) -> Images:
        """The same, normalised as before."""
        rows = indices if isinstance(indices, slice) else indices.numpy()
        files = None if self.files is None else self.files[rows]
        return replace(self, x=self.x[indices], y=self.y[indices], files=files)

    def shift_and_mirror(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The usual augmentation, as far as it leaves the labels of these images true. See :func:`crop_and_flip`."""
        padding = max(1, self.x.shape[-1] // 8) if self.padding is None else self.padding
        return crop_and_flip(x, generator, padding=padding, flip=self.may_be_mirrored)


def cut(images: Images, held_out: Tensor) -> tuple[Images, Images]:
    """What is left, and what was held out (``[N]`` bool), both with the statistics of what is left."""
    statistics = channel_statistics(images.x[~held_out])
    train, held = (replace(images.part(rows), statistics=statistics) for rows in (~held_out, held_out))
    return train, held


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

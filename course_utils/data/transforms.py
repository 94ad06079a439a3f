"""Augmentation of whole batches: on bytes and at the images' own size, because there it is cheap.

Every function here takes a batch and a generator and draws from that generator alone, so that
:func:`course_utils.data.images.batches` can repeat it. torchvision's transforms serve where they do it well; they draw
once for a whole batch, and from the global generator: :func:`from_torchvision` mends both.

Sources: Cubuk et al. 2020, arXiv:1909.13719 (RandAugment); Zhong et al. 2020, arXiv:1708.04896 (random erasing);
Zhang et al. 2018, arXiv:1710.09412 (mixup); Yun et al. 2019, arXiv:1905.04899 (CutMix).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

Augment = Callable[[Tensor, torch.Generator], Tensor]  # uint8 [B, C, H, W] -> uint8 [B, C, H, W]
Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]  # x, y [B] -> x, y [B, classes]


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


def erase(
    x: Tensor,
    generator: torch.Generator,
    *,
    share: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Overwrite one rectangle of noise in a ``share`` of the images, somewhere, so that no single part is relied on.

    Args:
        x: uint8 [B, C, H, W].
        area: least and largest part of the image.
        ratio: least and largest height over width; a rectangle that would stick out is cut to the image.
    """
    batch, _, height, width = x.shape
    hit, parts, shapes, top, left = torch.rand(5, batch, generator=generator)
    parts = (area[0] + (area[1] - area[0]) * parts) * height * width
    shapes = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * shapes)
    high = (parts * shapes).sqrt().round().clamp(1, height)  # [B]
    wide = (parts / shapes).sqrt().round().clamp(1, width)
    top, left = (top * (height - high + 1)).floor(), (left * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    down = (rows >= top[:, None]) & (rows < (top + high)[:, None])  # [B, H]
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [B, W]
    inside = (down[:, :, None] & across[:, None, :] & (hit < share)[:, None, None])[:, None]  # [B, 1, H, W]
    noise = torch.randint(0, 256, x.shape, generator=generator, dtype=x.dtype)
    return torch.where(inside, noise, x)


def from_torchvision(transform: Callable[[Tensor], Tensor], group: int = 8) -> Augment:
    """A transform of ``torchvision.transforms.v2`` as a function of the generator, drawn anew for each few images.

    Given a batch, such a transform draws once and does the same to all of its images; one image at a time costs most of
    the time in calls. ``group`` images share a draw here.
    """

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(devices=[]):  # the transform draws from the global generator
            torch.default_generator.manual_seed(seed)
            return torch.cat([transform(part) for part in x.split(group)])

    return augment


def rand_augment(operations: int = 2, magnitude: int = 9, group: int = 8) -> Augment:
    """``operations`` of fourteen distortions (turn, shear, contrast, posterise, ...) chosen at random, of the same
    ``magnitude`` (0 to 30), for each ``group`` of images."""
    return from_torchvision(v2.RandAugment(num_ops=operations, magnitude=magnitude), group)


def chain(*augments: Augment) -> Augment:
    """One after another."""

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        for each in augments:
            x = each(x, generator)
        return x

    return augment


def mixup_cutmix(
    classes: int, *, mixup: float = 0.8, cutmix: float = 1.0, switch: float = 0.5, smoothing: float = 0.0
) -> Mix:
    """Blend each image with its neighbour in the batch (mixup), or paste a rectangle of it (CutMix), labels alike.

    Args:
        classes: how many there are.
        mixup, cutmix: the ``alpha`` of the Beta distribution that the blending share is drawn from; 0 leaves one out.
        switch: how often CutMix is taken where both are on.
        smoothing: share of each label that is spread over all classes.
    """
    blend = v2.MixUp(num_classes=classes, alpha=mixup) if mixup else None
    paste = v2.CutMix(num_classes=classes, alpha=cutmix) if cutmix else None

    def mix(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**31, (), generator=generator))
        pasted = bool(torch.rand((), generator=generator) < switch)
        chosen = (paste if pasted or blend is None else blend) if paste is not None else blend
        if chosen is None:
            y = F.one_hot(y, classes).to(x.dtype)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                x, y = chosen(x, y)
        return x, y * (1 - smoothing) + smoothing / classes

    return mix

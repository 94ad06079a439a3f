"""The images of a recipe, and what is done to each batch of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from course_utils.data import Images, Splits, batches, from_torchvision, mixup_cutmix
from course_utils.data.loading import prefetched
from course_utils.data.transforms import Augment, Mix
from course_utils.launch import Process
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.images import augmentation, load


def load_data(config: FromScratch) -> Splits:
    """The images to train on, those held out of them, and the test images, which nothing is chosen by.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as :func:`course_utils.data.load_splits`.
    """
    # The same part is held out whatever the seed of the run.
    splits = load(config, config.validation)
    train, held, test = (part and _with_border(part, config) for part in splits)
    assert train is not None
    assert test is not None
    if config.limit is not None:
        if config.limit > len(train):
            raise ValueError(f"limit is {config.limit}, but there are {len(train)} images to train on: choose fewer")
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: config.limit]
        train = train.take(chosen.sort().values)
    return Splits(train, held, test)


def _with_border(images: Images, config: FromScratch) -> Images:
    """Where patches do not fill the images, a border does: black, as the ground is. A shift may use it up."""
    if config.image_size:
        return images
    bottom, right = (-side % config.patch_size for side in images.x.shape[2:])
    sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
    padding = None if images.padding is None else images.padding + right // 2
    return replace(images, x=F.pad(images.x, sides), padding=padding)


def training_batches(
    config: FromScratch, images: Images, epoch: int, process: Process
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch. What each batch holds does not depend on how many share it."""
    own = batches(
        images,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        epoch=epoch,
        device=process.device,
        augment=_tutorials(images) if config.augment == "tutorial" else augmentation(config.augment, images),
        mix=_mix(config, len(images.classes)),
        size=config.image_size,
        drop_last=True,
        rank=process.rank,
        world_size=process.world_size,
    )
    return prefetched(own, process.device)


def _tutorials(images: Images) -> Augment:
    # Its crop of 224 pixels after a padding of 4 shifts an image of 32 by half a pixel: left out.
    turn = [v2.RandomHorizontalFlip(0.5 * images.may_be_mirrored), v2.RandomRotation(15)]
    return from_torchvision(v2.Compose([*turn, v2.ColorJitter(0.2, 0.2, 0.2, 0.1)]))


def _mix(config: FromScratch, classes: int) -> Mix | None:
    if not (config.mixup or config.cutmix):
        return None
    return mixup_cutmix(classes, mixup=config.mixup, cutmix=config.cutmix, smoothing=config.smoothing)

"""New images for a pretrained model: few labels, validation set aside, pixels as the base is used to see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from course_utils.data import Images, batches, hold_out
from course_utils.data.image_sets import is_path
from course_utils.data.loading import prefetched
from course_utils.launch import Process
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.model import Classifier
from course_utils.vision.images import augmentation, load


@dataclass(frozen=True)
class Data:
    """The images of a run, normalised as the base was trained; ``classes`` are those of the data set."""

    train: Images
    validation: Images
    test: Images

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def load_data(config: FineTune) -> Data:
    """Training, validation and test images. ``per_class`` counts labels that are used at all, validation among them.

    Raises:
        FileNotFoundError, ConnectionError: nothing at ``data_dir``, or no network.
        ValueError: broken data, or fewer images of a class than ``per_class``.
    """
    if is_path(config.data):
        train, held, test = load(config, config.validation)
        assert held is not None  # validation is above 0
        return Data(train if config.per_class is None else few_labels(train, config.per_class), held, test)
    whole, _, test = load(config)
    if config.per_class is not None:
        whole = few_labels(whole, config.per_class)
    return Data(*hold_out(whole, config.validation, seed=config.seed), test)


def few_labels(images: Images, per_class: int) -> Images:
    """The first ``per_class`` images of each class."""
    members = [(images.y == c).nonzero()[:per_class, 0] for c in range(len(images.classes))]
    if short := [name for name, m in zip(images.classes, members, strict=True) if len(m) < per_class]:
        raise ValueError(
            f"{images.name} has fewer than {per_class} images of {', '.join(short)}: choose a smaller per_class"
        )
    return images.take(torch.cat(members).sort().values)


def seen_by(model: Classifier, images: Images) -> tuple[Images, tuple[int, int] | None]:
    """The images with the pixel statistics that this model was trained with, and its size, if it is another."""
    channels = images.x.shape[1]
    if channels not in (1, model.channels):
        raise ValueError(
            f"{images.name} has {channels} channels and the model was trained on {model.channels}: choose a base for "
            "colour images, such as google/vit-base-patch16-224, or --channels grey"
        )
    mean, std = (torch.tensor(values)[:channels] for values in model.statistics)
    size = None if tuple(images.x.shape[2:]) == model.image_size else model.image_size
    return replace(images, statistics=(mean, std)), size


def training_batches(
    config: FineTune, model: Classifier, images: Images, epoch: int, process: Process
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch; the last batch may be smaller."""
    seen, size = seen_by(model, images)
    own = batches(
        seen,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        epoch=epoch,
        device=process.device,
        augment=augmentation(config.augment, images),
        size=size,
        rank=process.rank,
        world_size=process.world_size,
    )
    return prefetched(own, process.device)

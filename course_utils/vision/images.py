"""What both projects do with images: which set, what augmentation, and which process evaluates which of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from course_utils.data import NAMES, Images, batches, chain, erase, image_set, rand_augment
from course_utils.data.transforms import Augment
from course_utils.launch import Process
from course_utils.training.settings import RunSettings

EVALUATION_BATCH = 250


class ImageSettings(RunSettings):
    """The keys of a run on images."""

    data: str = Field("fashion", description=f"{', '.join(NAMES)}: the images")
    data_dir: str | None = Field(None, description="where the images lie, if they are no part of the package")
    download: bool = Field(False, description="let torchvision fetch CIFAR-10 into data_dir")

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if (needs := image_set(self.data).needs) and self.data_dir is None:
            raise ValueError(f"data {self.data} needs data_dir: {needs}")
        return self


def augmentation(kind: Literal["none", "crop", "strong"], images: Images) -> Augment | None:
    """What is done to training images at their own size: nothing; shift and mirror; RandAugment and erasing too."""
    if kind == "none":
        return None
    return images.shift_and_mirror if kind == "crop" else chain(images.shift_and_mirror, rand_augment(), erase)


def whole_batches(
    images: Images, process: Process, batch_size: int = EVALUATION_BATCH, **options: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that this process evaluates: of all of them every N-th, where N processes share them out.

    A batch goes whole to one process, so it is computed as a single process would compute it; and a process prepares
    its own images only. ``options`` as for :func:`course_utils.data.batches`.
    """
    for start in range(process.rank * batch_size, len(images), process.world_size * batch_size):
        yield from batches(images.take(slice(start, start + batch_size)), batch_size, device=process.device, **options)

"""What both projects do with images: which set, what augmentation, and which process evaluates which of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from course_utils.data import NAMES, Images, Splits, batches, chain, erase, image_set, load_splits, rand_augment
from course_utils.data.image_sets import is_path
from course_utils.data.own_images import Channels
from course_utils.data.transforms import Augment
from course_utils.launch import Process
from course_utils.training.settings import RunSettings

EVALUATION_BATCH = 250


class ImageSettings(RunSettings):
    """The keys of a run on images."""

    data: str = Field("fashion", description=f"{', '.join(NAMES)}; or a path: a folder for each class, or an .npz")
    pixels: int | None = Field(None, ge=8, description="side of a path's pictures; none: 64, or their own up to 96")
    channels: Channels = Field("own", description="of a path's pictures: their own, grey or colour")
    mirrored: bool = Field(False, description="a mirrored picture of the path still shows its class")
    data_dir: str | None = Field(None, description="where the images lie, if they are no part of the package")
    download: bool = Field(False, description="let torchvision fetch CIFAR into data_dir")

    @field_validator("data")
    @classmethod
    def _from_any_directory(cls, value: str) -> str:
        """A path is made absolute, so that a saved run finds it from elsewhere."""
        return str(Path(value).expanduser().resolve()) if is_path(value) else value

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if is_path(self.data):
            return self
        if (needs := image_set(self.data).needs) and self.data_dir is None:
            raise ValueError(f"data {self.data} needs data_dir: {needs}")
        return self


def load(config: ImageSettings, validation: float = 0.0) -> Splits:
    """The images of a configuration. Raises as :func:`course_utils.data.load_splits`."""
    own: dict[str, Any] = {"pixels": config.pixels, "channels": config.channels, "mirrored": config.mirrored}
    return load_splits(config.data, root=config.data_dir, download=config.download, validation=validation, **own)


def names(train: Images, validation: Images | None, test: Images) -> dict[str, str]:
    """What a run says of its data: no number of theirs is told without it."""
    parts = {"train": train, "validation": validation, "test": test}
    return {part: f"{part} part of {_described(images)}" for part, images in parts.items() if images is not None}


def split_file(train: Images, validation: Images | None, test: Images) -> dict[str, str]:
    """What is to lie beside a run on pictures of one's own: which of them were in which part."""
    parts = {"train": train, "validation": validation, "test": test}
    files = {
        part: images.files.tolist() for part, images in parts.items() if images is not None and images.files is not None
    }
    return {"split.json": json.dumps(files, ensure_ascii=False, indent=1) + "\n"} if files else {}


def _described(images: Images) -> str:
    digest = hashlib.sha256(images.x.numpy().data)
    digest.update(images.y.numpy().data)
    return f"{images.name} ({len(images):,} images, SHA-256 {digest.hexdigest()[:8]})"


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

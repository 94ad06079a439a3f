"""What decides a training run from scratch: model, batch, learning rate, regularisation; and recipes with a name.

A preset is a set of defaults: ``FromScratch(preset="compact", epochs=3)``; every key can be changed.

Sources: Touvron et al. 2021, arXiv:2012.12877 (DeiT); Hassani et al. 2021, arXiv:2104.05704 (compact);
Goyal et al. 2017, arXiv:1706.02677 (a learning rate belongs to a batch size).
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from course_utils.vision.images import ImageSettings

Preset = Literal["compact", "compact_long", "deit", "tutorial"]
Augmentation = Literal["none", "crop", "strong", "tutorial"]

COMPACT: dict[str, Any] = {"optimizer": "muon"}  # and the defaults below
PRESETS: dict[str, dict[str, Any]] = {
    "compact": COMPACT,
    "compact_long": {
        **COMPACT,
        "epochs": 50,
        "augment": "strong",
        "drop_path": 0.1,
        "mirror": True,
    },
    # Their average looks back over 25,000 of 375,000 steps: here over the same share of however many there are.
    "deit": {
        **{"stem": (), "patch_size": 4, "width": 192, "depth": 12, "heads": 3, "mlp_ratio": 4.0, "pool": "cls"},
        **{"epochs": 300, "batch_size": 512, "lr": 5e-4, "lr_batch": 512, "lr_min": 1e-5, "warmup": 5 / 300},
        **{"clip": None, "augment": "strong", "drop_path": 0.1, "mixup": 0.8, "cutmix": 1.0, "ema": 1 / 15},
    },
    # As a widely read tutorial trains: ViT-B/16 on images enlarged to 224 pixels, with a rate meant for fine-tuning.
    "tutorial": {
        **{"stem": (), "image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0},
        **{"pool": "cls", "epochs": 80, "batch_size": 128, "optimizer": "adam", "lr": 1e-5, "lr_batch": 128},
        **{"schedule": "constant", "warmup": 0.0, "weight_decay": 1e-3, "clip": None, "smoothing": 0.0},
        **{"augment": "tutorial"},
    },
}


class FromScratch(ImageSettings):
    """One run from scratch. Keys not given are the preset's."""

    preset: Preset = Field("compact", description="the recipe that the other keys change")
    validation: float = Field(0.0, ge=0, lt=1, description="share held out, which chooses the epoch; 0: the last")
    limit: int | None = Field(None, ge=1, description="train on so many images only; none: on all")

    image_size: int | None = Field(
        None,
        ge=1,
        description="pixels the images are enlarged to; none: as they are, with a border where patches need one",
    )
    stem: tuple[int, ...] = Field((48, 96, 192), description="channels of the convolutions before the tokens; or none")
    patch_size: int = Field(8, ge=1, description="pixels of a token's side")
    width: int = Field(192, ge=1, description="numbers of a token")
    depth: int = Field(4, ge=1, description="encoder layers")
    heads: int = Field(6, ge=1, description="attention heads of a layer")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden width of the MLPs, as a multiple of width")
    pool: Literal["cls", "mean"] = Field("mean", description="what the head reads: a class token, or the mean")
    drop_path: float = Field(0.0, ge=0, lt=1, description="share of images that skip the last layer's branches")

    batch_size: int = Field(256, ge=1, description="images of one step, of all processes together")
    optimizer: Literal["muon", "adamw", "adam"] = Field(
        "adamw", description="adamw decays beside the gradient, adam through it; muon turns whole matrices"
    )
    lr: float = Field(2e-3, gt=0, description="largest learning rate, for a batch of lr_batch images")
    muon_factor: float = Field(20.0, gt=0, description="the rate of Muon's matrices, as a multiple of the others'")
    lr_batch: int = Field(256, ge=1, description="the batch that lr belongs to; the rate grows with batch_size")
    lr_min: float = Field(0.0, ge=0, description="where the cosine ends")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the rate, after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the rate rises from zero")
    weight_decay: float = Field(0.05, ge=0, description="for matrices; with adam for everything")

    augment: Augmentation = Field("crop", description="shift and mirror; strong: RandAugment and erasing too")
    smoothing: float = Field(0.1, ge=0, lt=1, description="share of each label spread over all classes")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0: off")
    mirror: bool = Field(False, description="evaluate each image together with its mirror image")

    output: str | None = Field(
        "output/from_scratch", description="folder of the run's files, the same for all machines; none"
    )
    processes: int = Field(0, ge=0, le=64, description="on this machine; 0: one for each GPU, or for each of two cores")

    @property
    def rate(self) -> float:
        """The largest learning rate of this run: ``lr`` times ``batch_size / lr_batch``."""
        return self.lr * self.batch_size / self.lr_batch

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and (preset := given.get("preset", "compact")) in get_args(Preset):
            return {**PRESETS[preset], **given}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lr_min > self.rate:
            raise ValueError(f"lr_min {self.lr_min} is above the largest rate {self.rate:g}: choose it smaller")
        return self

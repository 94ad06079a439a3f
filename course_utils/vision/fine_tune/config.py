"""What can be chosen when a model is fine-tuned. Every key is read by something, or refused."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from course_utils.vision.images import ImageSettings

Tactic = Literal["full", "head", "lora"]
RATES: dict[str, float] = {"full": 5e-4, "head": 1e-2, "lora": 3e-3}
"""Learning rates that suit the embedded model. ViT-B/16 wants less: 5e-5 to 1e-4 in full."""

READ_BY = {  # keys that only some tactics read
    "rank": {"lora"},
    "alpha": {"lora"},
    "targets": {"lora"},
    "layer_decay": {"full"},
    "head_epochs": {"full", "lora"},
    "lr": {"full", "lora"},
}


class FineTune(ImageSettings):
    """One run: ``FineTune(tactic="lora", per_class=50)``."""

    per_class: int | None = Field(None, ge=2, description="labelled images of each class to use; none: all there are")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the training images that chooses the epoch")

    base: str = Field("embedded", description="'embedded', a checkpoint's folder or file, or its name on the hub")
    library: Literal["ours", "transformers", "timm"] = Field("ours", description="whose model is built")
    start: Literal["pretrained", "scratch"] = Field("pretrained", description="from the base's weights, or new ones")
    image_size: int | None = Field(None, ge=1, description="pixels; none: those the base was trained for")

    tactic: Tactic = Field("full", description="what is trained: all, the new head alone, or LoRA and the head")
    rank: int = Field(8, ge=1, description="of LoRA")
    alpha: float = Field(16.0, gt=0, description="LoRA's update is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1, description="layers LoRA goes round")

    head_epochs: int = Field(0, ge=0, description="so many of them train the new head alone, first")
    lr: float | None = Field(None, gt=0, description="largest learning rate of the pretrained part; none: by tactic")
    head_lr: float = Field(1e-2, gt=0, description="largest learning rate of the head, which starts from nothing")
    layer_decay: float = Field(1.0, gt=0, le=1, description="each layer nearer the image learns slower by this factor")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rates rise from zero")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW, for matrices")
    smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    augment: Literal["none", "crop", "strong"] = Field(
        "crop", description="none; shift and mirror; or RandAugment and erasing too"
    )
    output: str | None = Field("output/vision", description="folder of the run's files; none")

    @property
    def rate(self) -> float:
        """The largest learning rate of what was pretrained."""
        return self.lr or RATES[self.tactic]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key in self.model_fields_set & READ_BY.keys():
            value = getattr(self, key)
            if self.tactic not in READ_BY[key] and value != type(self).model_fields[key].default:
                tactics = " and ".join(tactic for tactic in get_args(Tactic) if tactic in READ_BY[key])
                raise ValueError(f"{key} is {value!r}, but tactic {self.tactic} does not read it: only {tactics} do")
        if self.head_epochs and self.head_epochs >= self.epochs:
            raise ValueError(
                f"head_epochs {self.head_epochs} leaves no epoch of {self.epochs} for the rest: choose fewer, or "
                "tactic head"
            )
        if self.base == "embedded" and self.library != "ours":
            raise ValueError(f"the embedded base is a model of ours, not of {self.library}: name another base")
        if self.start == "scratch" and self.tactic != "full":
            raise ValueError(f"start scratch with tactic {self.tactic} would tune noise: choose tactic full")
        return self

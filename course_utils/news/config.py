"""What can be chosen: one typed, checked, unchangeable object, from a YAML or JSON file, the command line, or Python.

Every key is read by something. A key that the chosen tactic does not read is refused: ``rank`` with ``tactic="head"``
would be believed to matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from course_utils.data.news import SPLITS
from course_utils.precision import Precision
from course_utils.training.settings import RunSettings

Tactic = Literal["full", "head", "prompt", "prefix", "p_tuning", "p_tuning_v2", "adapter", "lora", "ia3"]
TACTICS: tuple[str, ...] = get_args(Tactic)

# Full fine-tuning moves every weight of a trained model and wants the smallest steps; vectors that start from nothing,
# and the head, want large ones. Found on validation titles (course_utils/news/study.py) for the embedded encoder;
# larger ones want less, bert-base about a tenth.
HEAD_RATE = 3e-2
LEARNING_RATES = {
    "full": 3e-4,
    "head": None,
    "prompt": 1e-1,
    "prefix": 3e-3,
    "p_tuning": 3e-3,
    "p_tuning_v2": 1e-1,
    "adapter": 3e-3,
    "lora": 2e-3,
    "ia3": 1e-1,
}
READ_BY = {  # keys that only some tactics read
    "lr": set(TACTICS) - {"head"},
    "rank": {"lora"},
    "alpha": {"lora"},
    "lora_dropout": {"lora"},
    "targets": {"lora"},
    "width": {"adapter"},
    "length": {"prompt", "prefix", "p_tuning", "p_tuning_v2"},
    "hidden": {"prefix", "p_tuning"},
}


class Config(RunSettings):
    """One run. ``Config(tactic="head", epochs=5)``, or ``Config.load("run.yaml")``."""

    example: ClassVar[str] = "tactic: lora"

    train: str = Field("train", description="titles to train on: a file of one's own, or a split of the embedded ones")
    validation: str = Field(
        "validation", description="titles that choose the epoch: a file; left out, a tenth of a file to train on"
    )
    test: str = Field("test", description="titles that report: a file; left out, a fifth of a file to train on")
    titles: int | None = Field(None, ge=1, description="train on so many alone, of each label its share")
    text_field: str | None = Field(None, description="what a file calls its texts: a field, or a column's number")
    label_field: str | None = Field(None, description="what a file calls its labels: a field, or a column's number")
    split_seed: int = Field(0, ge=0, description="draws what is held out; not the run's seed, so that runs compare")
    base: str = Field(
        "embedded", description="'embedded', 'untrained', or a BERT-like encoder: its folder, file or hub name"
    )
    pool: Literal["own", "cls", "mean"] = Field("own", description="what the head reads; 'own' as the base was made")
    max_length: int = Field(48, ge=3, description="tokens of a title, [CLS] and [SEP] among them; longer ones are cut")

    tactic: Tactic = Field("lora", description="what is trained, beside the head")
    library: Literal["ours", "peft"] = Field("ours", description="whose implementation of the tactic")
    rank: int = Field(8, ge=1, description="of LoRA")
    alpha: float = Field(16.0, gt=0, description="LoRA's update is scaled by alpha / rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of LoRA's inputs dropped")
    targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj"), min_length=1, description="layers LoRA goes round")
    width: int = Field(32, ge=1, description="of the adapters' bottleneck")
    length: int = Field(10, ge=1, description="vectors of a prompt, or keys and values of a prefix")
    hidden: int = Field(128, ge=1, description="units of the network that writes the prompt, or the prefix")

    epochs: int = Field(6, ge=1, description="passes over the training titles, at most")
    patience: int | None = Field(3, ge=1, description="stop after so many epochs without a better validation accuracy")
    lr: float | None = Field(None, gt=0, description="learning rate of the tactic; by default one that suits it")
    head_lr: float | None = Field(None, gt=0, description="learning rate of the head, which starts from nothing")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="of the rates, after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the rates rise from zero")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW, for matrices")
    precision: Literal["auto", Precision] = Field(
        "fp32", description="of matrix products; auto: bf16 or fp16 where the device multiplies it faster"
    )
    seed: int = Field(987, ge=0, description="of everything that is drawn")

    strategy: Literal["ddp", "deepspeed"] = Field("ddp", description="how several processes train together")
    zero_stage: int = Field(
        2, ge=0, le=2, description="of DeepSpeed: 0 shards nothing, 1 optimizer states, 2 gradients"
    )
    output: str | None = Field(
        "output", description="folder of runs; this one is in its subfolder named as the tactic; none"
    )

    @property
    def folder(self) -> Path | None:
        """Where the run's files are."""
        return None if self.output is None else Path(self.output) / self.tactic

    @property
    def tactic_lr(self) -> float:
        """The learning rate of all that is trained but the head."""
        return self.lr or LEARNING_RATES[self.tactic] or self.head_rate

    @property
    def head_rate(self) -> float:
        """The learning rate of the head."""
        return self.head_lr or HEAD_RATE

    @field_validator("base", "train", "validation", "test")
    @classmethod
    def _from_any_directory(cls, value: str) -> str:
        """A path is made absolute, so that a saved run finds it from elsewhere; names stay names."""
        path = Path(value).expanduser()
        return str(path.resolve()) if value not in (*SPLITS, "embedded", "untrained") and path.exists() else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key in self.model_fields_set & READ_BY.keys():
            value = getattr(self, key)
            if self.tactic not in READ_BY[key] and value != type(self).model_fields[key].default:
                tactics = ", ".join(tactic for tactic in TACTICS if tactic in READ_BY[key])
                raise ValueError(f"{key} is {value!r}, but tactic {self.tactic} does not read it: only {tactics} do")
        if self.library == "peft" and self.tactic in ("full", "head", "adapter"):
            raise ValueError(f"peft has nothing for tactic {self.tactic}: choose library ours")
        if self.strategy != "deepspeed" and self.zero_stage != type(self).model_fields["zero_stage"].default:
            raise ValueError(f"zero_stage is {self.zero_stage}, but strategy {self.strategy} does not read it")
        if self.strategy == "deepspeed" and self.resume:
            raise ValueError("strategy deepspeed keeps no optimizer state to resume from: begin anew (--overwrite)")
        return self

"""What can be chosen: texts, tokens, sizes, rates; from a YAML or JSON file, the command line, or Python."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from course_utils.data.own_text import Cut
from course_utils.training.settings import RunSettings

Corpus = Literal["tang", "octaves", "shakespeare"]
EMBEDDED = "embedded"
# Muon's is that of the token table, to which AdamW goes in big steps. Found on validation poems, two epochs, seed 0,
# batches of 32 rows: from 3e-3 to 6e-3, 12e-3 and 24e-3, all with 0.015 to 0.018 for the matrices, 5.22 nats a
# character became 5.09, 4.99 and 4.93; batches of 16 rows with 2e-2: 4.82. AdamW alone was tried with 4e-3 only: 5.97.
LEARNING_RATES = {"muon": 2e-2, "adamw": 4e-3}
OF_THE_BASE = ("tokenizer", "vocab_size", "width", "depth", "heads", "kv_heads", "mlp_width")


class Config(RunSettings):
    """One run. ``Config(corpus="shakespeare", epochs=1)``, or ``Config.load("run.yaml")``."""

    example: ClassVar[str] = "corpus: shakespeare"

    corpus: Corpus = Field("tang", description="the embedded texts; not read where text is given")
    text: str | None = Field(None, description="a text file of your own, in UTF-8; none: the corpus")
    extra: tuple[Corpus, ...] = Field((), description="corpora whose training texts are added; they choose nothing")
    cut: Cut = Field("paragraphs", description="what a document of your own text is")
    tokenizer: Literal["characters", "bpe"] = Field("characters", description="a token: a character, or learned bytes")
    vocab_size: int = Field(2048, ge=257, description="of bpe: how many tokens there are")
    length: int = Field(128, ge=2, description="tokens of a row; a document that is longer goes on in the next")
    packed: bool = Field(True, description="documents laid end to end in full rows; else one to a row, and padded")

    base: str | None = Field(
        None, description="'embedded', or a run's folder or checkpoint, to go on from; none: begin with nothing"
    )
    width: int = Field(192, ge=2, description="numbers of a token")
    depth: int = Field(4, ge=1, description="layers")
    heads: int = Field(6, ge=1, description="query heads of a layer")
    kv_heads: int = Field(2, ge=1, description="heads of keys and values of a layer")
    mlp_width: int = Field(512, ge=1, description="hidden numbers of the gated MLPs")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of what each part puts out that is dropped")

    epochs: int = Field(2, ge=1, description="passes over the training texts, at most")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a lower validation loss; none: never"
    )
    batch_size: int = Field(16, ge=1, description="rows of one batch, of all processes together")
    optimizer: Literal["muon", "adamw"] = Field("muon", description="of the layers' matrices; AdamW takes the rest")
    lr: float | None = Field(
        None,
        gt=0,
        description="largest learning rate; by default one that suits the optimizer, and a tenth with a base",
    )
    muon_factor: float = Field(0.9, gt=0, description="the rate of Muon's matrices, as a multiple of the others'")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps in which the rates rise from zero")
    floor: float = Field(0.05, ge=0, le=1, description="where the cosine ends, as a share of the largest rate")
    weight_decay: float = Field(0.1, ge=0, description="for matrices")

    output: str | None = Field(
        "output/language", description="folder of runs; this one is in its subfolder named as the texts; none"
    )
    processes: int = Field(0, ge=0, le=64, description="on this machine; 0: one for each GPU, or for each of two cores")

    @property
    def rate(self) -> float:
        """The largest learning rate of this run."""
        return self.lr or LEARNING_RATES[self.optimizer] * (0.1 if self.base else 1.0)

    @property
    def name(self) -> str:
        """What the texts are called: the corpus, or the file without its ending."""
        return self.corpus if self.text is None else Path(self.text).stem

    @property
    def folder(self) -> Path | None:
        """Where the run's files are."""
        return None if self.output is None else Path(self.output) / self.name

    @field_validator("text", "base")
    @classmethod
    def _from_any_directory(cls, value: str | None) -> str | None:
        """A path is made absolute, so that a saved run finds it from elsewhere; a name stays a name."""
        return value if value in (None, EMBEDDED) else str(Path(value).expanduser().resolve())

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"width {self.width} cannot be split over {self.heads} heads of an even number each: choose a multiple "
                f"of {2 * self.heads}, such as {max(1, self.width // (2 * self.heads)) * 2 * self.heads}"
            )
        if self.text is None and self.corpus in self.extra:
            raise ValueError(f"extra holds {self.corpus}, which is the corpus: its texts would count twice")
        unread = set(OF_THE_BASE) if self.base else set()
        unread |= {"cut"} if self.text is None else {"corpus"}
        unread |= {"vocab_size"} if self.tokenizer == "characters" else set()
        unread |= {"muon_factor"} if self.optimizer == "adamw" else set()
        for key in self.model_fields_set & unread:
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} is {value!r}, but with {self._reason(key)} it is not read: leave out one of them"
                )
        return self

    def _reason(self, key: str) -> str:
        if key in OF_THE_BASE and self.base:
            return f"base {self.base}, which brings its own,"
        reasons = {"cut": "an embedded corpus", "corpus": f"text {self.text}"}
        return reasons.get(key, "tokenizer characters" if key == "vocab_size" else "optimizer adamw")

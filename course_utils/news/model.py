"""Encoder, head and tactic: the model of a run, built from its configuration and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.data.news import LABELS
from course_utils.models import load_text
from course_utils.models.embedded import load_encoder
from course_utils.models.text import TextModel
from course_utils.news.config import Config
from course_utils.runtime import seed_everything
from course_utils.training.checkpoint import parameters_named
from course_utils.tuning import (
    HOULSBY_PLACES,
    IA3,
    Bottleneck,
    LoRA,
    Method,
    Prefix,
    PTuning,
    PTuningV2,
    SoftPrompt,
    fingerprint,
    inject,
)
from course_utils.tuning.names import Pattern


class TitleModel(nn.Module):
    """Takes a batch of :mod:`course_utils.news.data` apart, so that the training loop's ``model(x)`` is enough."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Ids and mask ``[B, 2, N]`` to logits ``[B, labels]``."""
        ids, mask = x.unbind(1)
        logits = self.model(input_ids=ids, attention_mask=mask)
        return logits if isinstance(logits, Tensor) else logits.logits  # transformers returns more than the logits


@dataclass(frozen=True)
class Built:
    """What :func:`build` makes.

    Args:
        model: frozen where the tactic says so.
        tokenizer: the base's own, which cuts titles at ``max_length``.
        pad: the token id for padding.
        base: the SHA-256 of the base's fingerprint, without the head: two runs with the same one began the same.
        labels: in the order of the model's outputs.
    """

    model: TitleModel
    tokenizer: Tokenizer
    pad: int
    base: str
    labels: tuple[str, ...] = LABELS

    def trained(self) -> nn.ParameterDict:
        """The parameters that train, by name: what a checkpoint holds. The base is not in it."""
        model = self.model.model
        return parameters_named(model, {name for name, p in model.named_parameters() if p.requires_grad})

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the model, and is compared when it is read."""
        return {"labels": list(self.labels), "base": self.base}


def build(config: Config, labels: Sequence[str] = LABELS) -> Built:
    """The model of a configuration. Seeds everything first: the head and the tactic's first values are drawn here.

    Args:
        labels: those that the head tells apart.

    Raises:
        FileNotFoundError, OSError: there is no such base, or the hub cannot be reached.
        ValueError: the base is broken or of another kind, or the tactic finds nothing to tune.
    """
    seed_everything(config.seed)
    model, tokenizer = load_base(config, len(labels))
    _set_length(tokenizer, config.max_length, model.config.max_length, config)
    marks = json.dumps(fingerprint(model, leave_out=["head"]), sort_keys=True)
    pad, base = model.config.pad_token, hashlib.sha256(marks.encode()).hexdigest()
    if config.tactic == "lora" and config.rank > model.config.width:
        raise ValueError(f"rank is {config.rank}, above the width of this base, {model.config.width}: choose 4 to 64")
    if config.library == "peft":
        from course_utils.news.with_peft import wrapped  # peft takes seconds to import

        return Built(TitleModel(wrapped(model, config)), tokenizer, pad, base, tuple(labels))
    if config.tactic == "full":
        model.requires_grad_(True)
    else:
        inject(model, *tactic(config), train=["head"])
    return Built(TitleModel(model), tokenizer, pad, base, tuple(labels))


def count(model: nn.Module) -> tuple[int, int]:
    """Parameters that train, and all that the model computes with: a head that a trained copy replaces does not."""
    frozen_heads = ("head.base.", "classifier.original_module.")
    working = [p for name, p in model.named_parameters() if not any(part in name for part in frozen_heads)]
    return sum(p.numel() for p in working if p.requires_grad), sum(p.numel() for p in working)


def load_base(config: Config, classes: int = len(LABELS)) -> tuple[TextModel, Tokenizer]:
    """The encoder with a fresh head for so many labels, and its tokenizer.

    ``base="untrained"`` is the embedded encoder with weights drawn anew: what is left when pretraining is taken away.
    """
    pooling: dict[str, Any] = {} if config.pool == "own" else {"pool": config.pool}
    if config.pool == "mean":
        pooling["pooler"] = False
    if config.base in ("embedded", "untrained"):
        model, tokenizer = load_encoder(classes, **pooling)
        return (model if config.base == "embedded" else TextModel(model.config)), tokenizer
    model = load_text(config.base, num_classes=classes, replace_head=True, **pooling)
    return model, load_tokenizer(config.base, model.config.vocab_size)


def load_tokenizer(base: str, rows: int) -> Tokenizer:
    """The tokenizer that lies beside a checkpoint whose word table has so many rows."""
    import transformers  # takes seconds, and the embedded encoder does without

    mend = "put the tokenizer.json or the vocab.txt of this very checkpoint into its folder"
    try:
        folder = Path(base).parent if Path(base).is_file() else base
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # a dozen kinds, by what is missing
        raise OSError(f"no tokenizer was found for {base} ({type(error).__name__}): {mend}") from error
    # Without its files transformers makes one that knows the special tokens alone, and says nothing.
    if not 0.9 * rows <= (size := tokenizer.get_vocab_size()) <= rows:
        raise ValueError(f"the tokenizer of {base} has {size:,} pieces, and the model {rows:,} rows for them: {mend}")
    return tokenizer


def tactic(config: Config) -> tuple[Method | None, list[Pattern]]:
    """The method of a tactic, and the layers it goes round, by their names in our own model."""
    match config.tactic:
        case "prompt":
            return SoftPrompt(length=config.length), ["word_embedding"]
        case "p_tuning":
            return PTuning(length=config.length, hidden=config.hidden), ["word_embedding"]
        case "prefix":
            return Prefix(length=config.length, hidden=config.hidden), ["attention"]
        case "p_tuning_v2":
            return PTuningV2(length=config.length), ["attention"]
        case "adapter":
            return Bottleneck(width=config.width), [HOULSBY_PLACES]
        case "lora":
            lora = LoRA(rank=config.rank, alpha=config.alpha, dropout=config.lora_dropout)
            return lora, list(config.targets)
        case "ia3":
            return IA3(), ["k_proj", "v_proj", "fc2"]
    return None, []  # head only


def _set_length(tokenizer: Tokenizer, wanted: int, room: int, config: Config) -> None:
    if config.tactic in ("prompt", "p_tuning"):
        room -= config.length  # the prompt takes positions
    special = tokenizer.num_special_tokens_to_add(False)
    if room <= special:
        most = room + config.length - special - 1
        raise ValueError(f"length is {config.length}, which leaves a title no room in this base: choose {most} at most")
    if not special < wanted <= room:
        raise ValueError(
            f"max_length is {wanted}, expected {special + 1} to {room}: this base has room for so many tokens, and "
            f"{special} of them are [CLS] and [SEP]"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(wanted)

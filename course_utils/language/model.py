"""The decoder of a run and its tokenizer, built from its configuration, or from what a checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils import sealed
from course_utils.data.tokenizer import Tokenizer
from course_utils.data.tokenizer_files import from_content
from course_utils.data.verses import Texts
from course_utils.language.config import EMBEDDED, Config
from course_utils.language.data import make_tokenizer
from course_utils.models.decoder import Decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.rotary import Rope
from course_utils.training.folder import facts_of, open_checkpoint

COMMAND = "python -m course_utils.language.train"
KIND = "language model"
# Its weights are stored in FP16; what it is and what it reaches stands in the card beside it. tools/make_language.py
# trains it.
MODEL = Path(str(resources.files("course_utils.language"))) / "embedded_files" / "tang.safetensors"


class LanguageModel(nn.Module):
    """Takes a batch of :mod:`course_utils.language.data` apart, so that the training loop's ``model(x)`` is enough."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Ids, positions and documents ``[B, 3, N]`` to logits ``[B N, V]``, one row for each target."""
        ids, positions, documents = x.unbind(1)
        logits: Tensor = self.decoder(ids, positions=positions, documents=documents)
        return logits.flatten(0, 1)


@dataclass(frozen=True)
class Built:
    """A decoder and the tokenizer that belongs to it."""

    decoder: Decoder
    tokenizer: Tokenizer

    def facts(self) -> dict[str, Any]:
        """All it takes to build both again; a checkpoint holds it beside the weights."""
        return {"decoder": asdict(self.decoder.config), "tokenizer": self.tokenizer.content()}


def from_facts(facts: Mapping[str, Any], **changes: Any) -> Built:
    """The inverse of :meth:`Built.facts`, with fresh weights; ``changes`` are other fields of the decoder's config."""
    sizes = dict(facts["decoder"])
    config = DecoderConfig(**{**sizes, "rope": Rope(**sizes["rope"])})
    return Built(Decoder(replace(config, **changes)), from_content(facts["tokenizer"]))


def build(config: Config, texts: Texts) -> Built:
    """The model of a configuration; its first weights depend on the seed, or the base, alone.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: the base is broken or no run of this project.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.base is None:
            tokenizer = make_tokenizer(config, texts)
            return Built(Decoder(decoder_config(config, tokenizer.vocab_size)), tokenizer)
        # Rotary positions need no weights: a base reads rows of any length.
        return open_run(config.base, dropout=config.dropout, max_length=config.length)[1]


def decoder_config(config: Config, vocab_size: int) -> DecoderConfig:
    """The decoder's sizes. Tied: with so many words and so few numbers each, two tables would be most of the model."""
    return DecoderConfig(
        vocab_size=vocab_size,
        max_length=config.length,
        head_width=config.width // config.heads,
        rope=Rope(theta=10_000.0),
        tied=True,
        **{key: getattr(config, key) for key in ("width", "depth", "heads", "kv_heads", "mlp_width", "dropout")},
    )


def open_run(source: str | Path, **changes: Any) -> tuple[Config, Built]:
    """A trained model, ready to use, and the settings that it was trained with.

    Args:
        source: ``"embedded"``, or a run's folder, of which the best epoch is taken, or a checkpoint.
        changes: other fields of the decoder's config, such as ``max_length``.

    Raises:
        FileNotFoundError: there is none.  ValueError: it is broken, or of another project.
    """
    if source == EMBEDDED:
        tree, weights = sealed.read(MODEL, KIND)
        built = from_facts(tree, **changes)
        weights["head.weight"] = weights["word_embedding.weight"]  # tied: stored once
        built.decoder.load_state_dict(weights)  # FP16 into FP32
        config = Config.checked(tree["config"], str(MODEL))
    else:
        found = open_checkpoint(source, COMMAND)
        built = from_facts(facts_of(found, "decoder"), **changes)
        found.restore(built.decoder)
        config = Config.checked(dict(found.config or {}), str(found.path))
    built.decoder.eval()
    return config, built


def seal(built: Built, config: Config, path: str | Path) -> None:
    """Write a model as the embedded one is: the weights in FP16, of two that are tied one."""
    weights = {name: p.detach().to(torch.float16).contiguous() for name, p in built.decoder.named_parameters()}
    sealed.write(path, KIND, {**built.facts(), "config": config.model_dump()}, weights)

"""Texts into batches of token ids, in rows packed full or padded.

Letters used for shapes: ``B`` rows of a batch, ``N`` tokens of a row.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.data.bpe import BytePairs
from course_utils.data.own_text import load_own_text
from course_utils.data.packing import Rows, pack, pad
from course_utils.data.tokenizer import Characters, Tokenizer
from course_utils.data.verses import SPLITS, Texts, load_corpus
from course_utils.language.config import Config


def load_texts(config: Config) -> Texts:
    """The documents of a run. The same are held out whatever its seed.

    Raises:
        FileNotFoundError, ValueError: as :func:`course_utils.data.own_text.load_own_text`.
    """
    texts = load_corpus(config.corpus) if config.text is None else load_own_text(config.text, config.cut)
    more = [text for name in config.extra for text in load_corpus(name).train]
    return texts._replace(train=[*texts.train, *more])


def names(config: Config, texts: Texts) -> dict[str, str]:
    """What the three parts are called: no number of theirs is told without it."""
    source = f"corpus {config.corpus}" if config.text is None else config.text
    added = {"train": f" and {', '.join(config.extra)}" if config.extra else ""}
    found = {}
    for split, part in zip(SPLITS, texts, strict=True):
        digest = hashlib.sha256(lines(part).encode()).hexdigest()[:8]
        found[split] = f"{split} of {source}{added.get(split, '')} ({len(part):,} texts, SHA-256 {digest})"
    return found


def files(config: Config, texts: Texts) -> dict[str, str]:
    """What is to lie beside a run on a text of one's own: which documents were held out."""
    if config.text is None:
        return {}
    return {f"{split}.jsonl": lines(part) for split, part in zip(SPLITS, texts, strict=True)}


def lines(texts: Sequence[str]) -> str:
    """Documents as JSON Lines."""
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def make_tokenizer(config: Config, texts: Texts) -> Tokenizer:
    """A tokenizer for these texts: of all their characters, or of pieces learned from those to train on."""
    if config.tokenizer == "characters":
        return Characters(texts.alphabet)
    return BytePairs.train(texts.train, config.vocab_size)


@dataclass(frozen=True)
class Encoded:
    """Documents as token ids.

    Args:
        ids: one list for each document, without its end.
        end: the end-of-text token.
        length: the most tokens of a row.
    """

    ids: list[list[int]]
    end: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens that are to be guessed: all, and the end of each document."""
        return sum(map(len, self.ids)) + len(self.ids)

    def rows(self, packed: bool) -> int:
        """How many rows the documents fill."""
        if packed:
            return -(-self.tokens // self.length)
        return sum(-(-(len(document) + 1) // self.length) for document in self.ids)


def encode(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> Encoded:
    """Tokenise documents. Raises ``ValueError`` for a character that the tokenizer does not know."""
    return Encoded([tokenizer.encode(text) for text in texts], tokenizer.end, length)


def batch(rows: Rows) -> tuple[Tensor, Tensor]:
    """Ids, positions and documents in one tensor ``[B, 3, N]``, which
    :class:`~course_utils.language.model.LanguageModel` takes apart; and the targets ``[B N]``."""
    return torch.stack([rows.input_ids, rows.positions, rows.documents], dim=1), rows.targets.flatten()


def batches(
    data: Encoded, size: int, *, packed: bool, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The documents once, in an order that depends on seed and epoch alone.

    With several processes each takes its share of every batch, ``size / world_size`` rows; of a last batch that is not
    full, the rows wait for another epoch's order.

    Args:
        size: rows of a batch, of all processes together.
        packed: whether documents are laid end to end; else each has rows of its own.
        rank, world_size: which process this is, and how many there are.
    """
    draw = random.Random(f"{seed} {epoch}")  # a generator of its own: what else is drawn does not move the order
    documents = draw.sample(data.ids, len(data.ids))
    rows = pack(documents, data.length, data.end) if packed else pad(documents, data.end, data.length)
    order = torch.tensor(draw.sample(range(len(rows.input_ids)), len(rows.input_ids)))
    for part in order.split(size):
        if len(part) == min(size, len(order)):
            share = part[rank : len(part) - len(part) % world_size : world_size]
            yield batch(Rows(*(column[share] for column in rows)))


def in_order(data: Encoded, size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """All documents once, each from its beginning, those of like length together, for evaluation; of several processes
    each gets every N-th batch, whole."""
    documents = sorted(data.ids, key=len)
    parts = [documents[i : i + size] for i in range(0, len(documents), size)]
    for part in parts[rank::world_size]:
        rows = pad(part, data.end, data.length)
        for start in range(0, len(rows.input_ids), size):
            yield batch(Rows(*(column[start : start + size] for column in rows)))

"""Titles into batches of token ids, each batch as wide as its longest title, with a mask that says what is padding.

Letters used for shapes: ``B`` titles of a batch, ``N`` tokens of its longest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from course_utils.data.news import LABELS, Title

TOGETHER = 8  # batches whose titles are sorted by length, so that each holds titles of much the same length


@dataclass(frozen=True)
class Encoded:
    """Tokenised titles.

    Args:
        ids: one list of token ids for each title, without padding.
        labels: ``[titles]`` integers, the places of their labels in the list of labels.
        pad: the id that fills short rows; nothing is ever read there.
        cut: how many titles were longer than fits, and lost their end.
    """

    ids: list[list[int]]
    labels: Tensor
    pad: int
    cut: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask in one tensor ``[B, 2, N]``, which :class:`~course_utils.news.model.TitleModel` takes apart; and
        the labels ``[B]``."""
        longest = max(len(self.ids[row]) for row in rows)
        x = torch.tensor([[self.pad] * longest, [0] * longest]).repeat(len(rows), 1, 1)
        for i, row in enumerate(rows):
            real = self.ids[row]
            x[i, :, : len(real)] = torch.tensor([real, [1] * len(real)])
        return x, self.labels[list(rows)]


def encode(titles: Sequence[Title], tokenizer: Tokenizer, pad: int, labels: Sequence[str] = LABELS) -> Encoded:
    """Tokenise all titles in one call, each cut to the length that the tokenizer was set to.

    Args:
        labels: all that there are, in the order of the model's outputs.
    """
    places = {label: place for place, label in enumerate(labels)}
    texts = tokenizer.encode_batch([title.title for title in titles])
    return Encoded(
        [text.ids for text in texts],
        torch.tensor([places[title.tag] for title in titles], dtype=torch.long),
        pad,
        sum(bool(text.overflowing) for text in texts),
    )


def in_order(data: Encoded, size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """All titles once, as they come, for evaluation; of several processes each gets every N-th batch, whole."""
    for start in range(rank * size, len(data), world_size * size):
        yield data.batch(range(start, min(start + size, len(data))))


def batches(
    data: Encoded, size: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The titles once, shuffled: an order that depends on seed and epoch alone.

    Titles of like length share a batch, which leaves little padding; what batches come first is drawn as well. With
    several processes each takes its share of every batch, ``size / world_size`` titles; of a last batch that cannot be
    divided, the remainder waits for another epoch's order.

    Args:
        size: titles of a batch, of all processes together.
        rank, world_size: which process this is, and how many there are.
    """
    draw = random.Random(f"{seed} {epoch}")  # a generator of its own: what else is drawn does not move the order
    order = draw.sample(range(len(data)), len(data))
    chunks = [order[i : i + size * TOGETHER] for i in range(0, len(order), size * TOGETHER)]
    order = [row for chunk in chunks for row in sorted(chunk, key=lambda row: len(data.ids[row]))]
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    draw.shuffle(parts)
    for part in parts:
        if share := part[rank : len(part) - len(part) % world_size : world_size]:
            yield data.batch(share)

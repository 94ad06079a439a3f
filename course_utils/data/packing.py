"""Documents of token ids as rectangles: laid end to end in rows that are all full, or one to a row and padded.

The end-of-text token stands between two documents. As an input it opens the second, as a target it closes the first, so
that a document of n tokens has n + 1 inputs and n + 1 targets::

    inputs      end  床  前  明  end  春  眠
    targets     床   前  明  end  春  眠  end
    documents   1    1   1   1   2    2   2
    positions   0    1   2   3   0    1   2

No target belongs to another document than its input. That no input *sees* another document is the model's part: it has
the numbers of the documents for its mask (Krell et al. 2021, arXiv:2107.02027).

Letters used for shapes: ``B`` rows, ``N`` tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # what torch's cross-entropy leaves out


class Rows(NamedTuple):
    """Token ids in rows, all int64 ``[B, N]``.

    Args:
        input_ids: what the model reads; in padding, the end-of-text token.
        targets: what it is to say at each place: the next token; :data:`IGNORED` in padding.
        positions: counted from 0 at the beginning of each document, and of each row.
        documents: 1, 2, ... along each row; 0 in padding.
    """

    input_ids: Tensor
    targets: Tensor
    positions: Tensor
    documents: Tensor

    @property
    def tokens(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())


def pack(documents: Sequence[Sequence[int]], length: int, end: int) -> Rows:
    """Lay documents end to end and cut them into rows; only the last row has padding.

    A document that reaches across a row's end goes on in the next row, where it does not see its beginning: rows of
    many times a document's length cut few.

    Args:
        length: N.
        end: the end-of-text token, which stands in no document.

    Raises:
        ValueError: no documents, or a length below 1.
    """
    if not documents or length < 1:
        raise ValueError(f"{len(documents)} documents cannot be packed into rows of {length}: give some, and 1 or more")
    stream = torch.tensor([end, *(token for document in documents for token in (*document, end))])  # [all + 1]
    missing = -(len(stream) - 1) % length
    inputs = torch.cat([stream[:-1], stream.new_full((missing,), end)]).view(-1, length)
    targets = torch.cat([stream[1:], stream.new_full((missing,), IGNORED)]).view(-1, length)
    opens = inputs == end
    opens[:, 0] = True
    real = targets != IGNORED
    places = torch.arange(length).expand_as(inputs)
    positions = places - torch.where(opens, places, 0).cummax(dim=1).values
    return Rows(inputs, targets, positions * real, opens.cumsum(dim=1) * real)


def pad(documents: Sequence[Sequence[int]], end: int, length: int | None = None) -> Rows:
    """One document to a row, each with its end of text, padded on the right to the longest.

    Args:
        end: the end-of-text token.
        length: the most tokens of a row; a longer document goes on in the next row, as in :func:`pack`.

    Raises:
        ValueError: no documents.
    """
    if not documents:
        raise ValueError("there are no documents to pad: give at least one")
    longest = max(len(document) for document in documents) + 1
    parts = [pack([document], min(longest, length or longest), end) for document in documents]
    return Rows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

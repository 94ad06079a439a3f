"""12.1: a batch of titles as one tensor, and the mask that says what is padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_pad_batch = Check("news_classification.1", "pad_batch", parameters=("titles", "pad"))


def _titles(rng: Rng, lengths: list[int], pad: int) -> list[list[int]]:
    """Token ids; in one title the padding's id occurs as a real token."""
    titles = [rng.integers(10, 500, length).tolist() for length in lengths]
    titles[0][-1] = pad
    return titles


def _padded(titles: list[list[int]], pad: int, width: int, *, left: bool = False) -> Tensor:
    rows = [[pad] * (width - len(t)) + t if left else t + [pad] * (width - len(t)) for t in titles]
    return torch.tensor(rows)


def _part(answer: Answer, which: int, titles: list[list[int]], pad: int, suspects: dict[str, Tensor]) -> None:
    """Compare one of the two results: 0 the ids, 1 the mask."""
    width = max(map(len, titles))
    ids = _padded(titles, pad, width)
    mask = torch.arange(width) < torch.tensor([[len(t)] for t in titles])
    want = (ids, mask)[which]
    got = answer(titles, pad)
    if not isinstance(got, tuple) or len(got) != 2:
        raise NotOk(
            ("expected", "a pair: ids, mask"), ("got", type(got).__name__), hint="Return both: return ids, mask."
        )
    lengths = [len(title) for title in titles]
    given = f"{answer.name} of titles of {lengths} tokens, pad {pad}: {('ids', 'mask')[which]}"
    fitting = {sentence: value for sentence, value in suspects.items() if value.shape == want.shape}
    Answer(lambda *_: got[which], answer.name).expect(want, titles, pad, given=given, suspects=fitting)


def _ids(answer: Answer, titles: list[list[int]], pad: int) -> None:
    width = max(map(len, titles))
    _part(
        answer,
        0,
        titles,
        pad,
        {
            "The padding stands in front here; it belongs behind the title.": _padded(titles, pad, width, left=True),
            "Short titles are filled with 0 here. Fill them with pad.": _padded(titles, 0, width),
        },
    )


def _mask(answer: Answer, titles: list[list[int]], pad: int) -> None:
    width = max(map(len, titles))
    ids = _padded(titles, pad, width)
    mask = torch.arange(width) < torch.tensor([[len(t)] for t in titles])
    suspects = {
        "The mask is the wrong way round: True where a token is real.": ~mask,
        "Everything is real here, so that the model reads the padding.": mask | True,
        "A real token has the padding's id here, and you masked it: the mask follows from the lengths.": ids != pad,
    }
    _part(answer, 1, titles, pad, suspects)


def _point(title: str, hint: str, part: Callable[[Answer, list[list[int]], int], None], many: list[list[int]]) -> None:
    def look(answer: Answer, rng: Rng, *_: Any) -> None:
        for lengths in many:
            pad = int(rng.integers(1, 9))
            part(answer, _titles(rng, [int(n) for n in rng.permutation(lengths)], pad), pad)

    check_pad_batch.point(title, hint=hint)(look)


_point(
    "the ids: every title first, then padding",
    "Each row is the title's ids and then pad, as often as it takes.",
    _ids,
    [[3, 7, 5], [4, 1, 9, 2]],
)
_point(
    "as wide as the longest title, and no wider",
    "The width is the length of the longest title of this batch: max(len(title) for title in titles).",
    _ids,
    [[2, 3], [31, 8], [12]],
)
_point(
    "the mask: True for each token of the title, False for padding",
    "Compare the places 0, 1, 2, ... with the length of each title.",
    _mask,
    [[3, 7, 5], [6, 2]],
)
_point(
    "a batch of one title, and titles of equal length: nothing to fill",
    "Take all sizes from the titles.",
    _mask,
    [[1], [6], [4, 4, 4]],
)

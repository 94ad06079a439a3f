"""08.1: which numbers of which parameter a rank owns."""

from __future__ import annotations

import operator

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Pieces = list[tuple[int, int, int]]  # parameter, from, to

check_owned = Check("zero_from_scratch.1", "owned", parameters=("sizes", "ranks", "rank"))


def _pieces(answer: Answer, sizes: list[int], ranks: int, rank: int) -> Pieces:
    got = answer(sizes, ranks, rank)
    try:
        pieces = [tuple(operator.index(number) for number in piece) for piece in got]
        if any(len(piece) != 3 for piece in pieces):
            raise TypeError
    except TypeError:
        raise NotOk(
            ("given", answer.call(sizes, ranks, rank)), ("expected", "a list of (parameter, from, to)"),
            ("got", repr(got)[:60]), hint="Each piece is a tuple of three whole numbers, such as (2, 0, 5).",
        ) from None  # fmt: skip
    return pieces  # type: ignore[return-value]


def _wanted(sizes: list[int], ranks: int, rank: int) -> Pieces:
    part = -(-sum(sizes) // ranks)
    first, last, start = rank * part, (rank + 1) * part, 0
    pieces = []
    for i, size in enumerate(sizes):
        begin, end = max(first, start), min(last, start + size)
        if begin < end:
            pieces.append((i, begin - start, end - start))
        start += size
    return pieces


def _same(answer: Answer, sizes: list[int], ranks: int) -> None:
    for rank in range(ranks):
        got, want = _pieces(answer, sizes, ranks, rank), _wanted(sizes, ranks, rank)
        if got != want:
            raise NotOk(
                ("given", answer.call(sizes, ranks, rank)), ("expected", str(want)[:90]), ("got", str(got)[:90]),
                hint=_explain(got, want, sizes, ranks),
            )  # fmt: skip


def _explain(got: Pieces, want: Pieces, sizes: list[int], ranks: int) -> str:
    owned, part = sum(stop - start for _, start, stop in got), -(-sum(sizes) // ranks)
    whole = [(i, 0, size) for i, size in enumerate(sizes)]
    if got == whole:
        return "That is everything: a replica. A rank owns one part of N, and no more."
    if not got:
        return "This rank owns something. Ranks count from 0."
    if got == [(i, start, stop - start) for i, start, stop in want]:
        return "The third number says where a piece ends, not how long it is."
    if any(start >= stop for _, start, stop in got):
        return "One piece is empty or runs backwards: leave out parameters of which the rank owns nothing."
    if any(stop > sizes[i] for i, _, stop in got if 0 <= i < len(sizes)):
        return "A piece goes beyond the end of its parameter: positions count from the parameter's own beginning."
    if owned and all(piece in whole for piece in got):
        return "Whole parameters do not come out even. The cut goes through parameters, wherever it falls."
    if owned > part or owned < sum(stop - start for _, start, stop in want):
        return f"{sum(sizes)} numbers over {ranks} ranks: parts of {part}, rounded up; only the last ranks get less."
    return ""


@check_owned.point(
    "every rank gets as many numbers as the others, right through parameters",
    hint="Rank r owns positions r * part to (r + 1) * part of the flat vector. Where do these meet each parameter?",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (2, 3, 4):
        part = int(rng.integers(6, 12))
        cuts = np.sort(rng.choice(np.arange(1, part * ranks), 4, replace=False))
        sizes = np.diff([0, *cuts.tolist(), part * ranks]).tolist()
        _same(answer, sizes, ranks)


@check_owned.point(
    "where N does not divide the whole: parts rounded up, and less for the last",
    hint="part = ceil(total / ranks). What lies behind the end of the vector is padding and belongs to nobody.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (3, 5, 7):
        total = ranks * int(rng.integers(5, 9)) + int(rng.integers(1, ranks))
        first = int(rng.integers(1, total - 1))
        _same(answer, [first, total - first], ranks)
    _same(answer, [2, 1], 5)  # ranks 3 and 4 own nothing


@check_owned.point(
    "a parameter over several ranks, several on one rank, one rank alone",
    hint="A piece begins at max(first, start) and ends at min(last, start + size); nothing if that is not forwards.",
)
def _(answer: Answer, rng: Rng) -> None:
    _same(answer, [1, int(rng.integers(40, 60)), 1], 4)
    _same(answer, rng.integers(1, 4, 30).tolist(), 3)
    _same(answer, rng.integers(1, 9, 4).tolist(), 1)

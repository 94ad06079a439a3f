"""05.1: the groups of one axis of a rank grid."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_groups = Check("hybrid_parallelism.1", "groups", parameters=("sizes", "axis"))


def _groups(sizes: tuple[int, ...], axis: int) -> NDArray[np.int64]:
    """[groups, size of the axis], sorted by the first rank of each."""
    box = np.arange(math.prod(sizes)).reshape(sizes)
    return np.moveaxis(box, axis, -1).reshape(-1, sizes[axis])


def _sorted(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    return groups[np.argsort(groups[:, 0], kind="stable")]


def _mistakes(sizes: tuple[int, ...], axis: int) -> dict[str, NDArray[np.int64]]:
    """What known mistakes make of it: the sentence that explains each -> its result."""
    ranks, size = math.prod(sizes), sizes[axis]
    fortran = np.moveaxis(np.arange(ranks).reshape(sizes, order="F"), axis, -1).reshape(-1, size)
    beside, apart = np.arange(ranks).reshape(-1, size), np.arange(ranks).reshape(size, -1).T
    return {
        "The first axis runs fastest here. Ranks are numbered with the last axis innermost.": _sorted(fortran),
        "These groups are neighbours, as on the innermost axis. On others the members lie a stride apart.": beside,
        "These groups lie as far apart as on the outermost axis; between stand only the axes further in.": apart,
    }


def _expect(answer: Answer, sizes: tuple[int, ...], axis: int) -> None:
    """The right groups, told from known mistakes."""
    want = _groups(sizes, axis)
    got = answer(sizes, axis)
    given = ("given", answer.call(sizes, axis))
    rows = np.asarray(got) if isinstance(got, np.ndarray | list | tuple) else None
    if rows is None or rows.dtype.kind not in "iu":
        raise NotOk(given, ("expected", "whole numbers, one row a group"), ("got", f"{type(got).__name__}"))
    if rows.shape != want.shape:
        raise NotOk(
            given,
            ("expected", f"shape {want.shape}: {len(want)} groups of {want.shape[1]}"),
            ("got", f"shape {rows.shape}"),
            hint="Each rank is in just one group of the axis, and a group has as many ranks as the axis is long.",
        )
    if np.array_equal(rows, want):
        return
    at = int((rows != want).any(axis=1).argmax())
    hint = ""
    for sentence, value in _mistakes(sizes, axis).items():
        if np.array_equal(rows, value):
            hint = sentence
            break
    else:
        if np.array_equal(_sorted(np.sort(rows, axis=1)), want):
            hint = "The groups are right; list them by their first rank, and the ranks of each in ascending order."
    expected, found = f"group {at}: {want[at].tolist()}", f"group {at}: {rows[at].tolist()}"
    raise NotOk(given, ("expected", expected), ("got", found), hint=hint)


@check_groups.point(
    "the innermost axis: its groups are neighbours",
    hint="With sizes (2, 2, 2) the groups of axis 2 are [0, 1], [2, 3], [4, 5], [6, 7].",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((2, 2, 2), (3, 2, 4), tuple(int(n) for n in rng.integers(2, 5, 3))):
        _expect(answer, sizes, 2)


@check_groups.point(
    "the outermost axis: its groups lie as far apart as a replica is large",
    hint="With sizes (2, 2, 2) the groups of axis 0 are [0, 4], [1, 5], [2, 6], [3, 7].",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((2, 2, 2), (3, 2, 4), tuple(int(n) for n in rng.integers(2, 5, 3))):
        _expect(answer, sizes, 0)


@check_groups.point(
    "an axis in the middle: a stride apart, once for every place on the others",
    hint="With sizes (2, 2, 2) the groups of axis 1 are [0, 2], [1, 3], [4, 6], [5, 7].",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((2, 2, 2), *permutations((2, 3, 4)), tuple(int(n) for n in rng.integers(2, 5, 3))):
        _expect(answer, sizes, 1)


@check_groups.point(
    "two axes, four, five: a box has any number",
    hint="Nothing in the idea needs three axes. Do not unpack sizes into three names.",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((3, 2), (2, 3, 2, 2), (2, 1, 3, 2, 2)):
        for axis in range(len(sizes)):
            _expect(answer, sizes, axis)


@check_groups.point(
    "BLOOM's 384, and an axis of one",
    hint="An axis of one rank has groups of one rank, and as many of them as there are ranks.",
)
def _(answer: Answer, rng: Rng) -> None:
    for axis in (0, 1, 2):
        _expect(answer, (8, 12, 4), axis)
        _expect(answer, tuple(1 if i == axis else 3 for i in range(3)), axis)

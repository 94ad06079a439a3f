"""02.2: cut parameters into buckets."""

from __future__ import annotations

import operator

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_cut_into_buckets = Check("data_parallelism.2", "cut_into_buckets", parameters=("sizes", "capacity"))


def _buckets(answer: Answer, sizes: list[int], capacity: int) -> list[list[int]]:
    """The learner's buckets, of the right kind: lists of indices."""
    got = answer(sizes, capacity)
    try:
        buckets = [[operator.index(i) for i in bucket] for bucket in got]
    except TypeError:
        raise NotOk(
            ("given", answer.call(sizes, capacity)), ("expected", "a list of lists of whole numbers"),
            ("got", repr(got)[:60]), hint="A bucket is a list of indices into `sizes`, such as [[2, 1], [0]].",
        ) from None  # fmt: skip
    if strange := [i for bucket in buckets for i in bucket if not 0 <= i < len(sizes)]:
        raise NotOk(
            ("given", answer.call(sizes, capacity)),
            ("expected", f"indices from 0 to {len(sizes) - 1}"),
            ("got", str(strange[0])),
            hint="Put the *index* of a parameter into its bucket, not its size.",
        )
    return buckets


def _wanted(sizes: list[int], capacity: int) -> list[list[int]]:
    buckets: list[list[int]] = []
    used = 0
    for i in reversed(range(len(sizes))):
        if not buckets or used + sizes[i] > capacity:
            buckets.append([])
            used = 0
        buckets[-1].append(i)
        used += sizes[i]
    return buckets


def _same(answer: Answer, sizes: list[int], capacity: int) -> None:
    got, want = _buckets(answer, sizes, capacity), _wanted(sizes, capacity)
    if got == want:
        return
    flat = [i for bucket in got for i in bucket]
    hint = ""
    if sorted(flat) != list(range(len(sizes))):
        missing = sorted(set(range(len(sizes))) - set(flat))
        lost = f"parameter {missing[0]} is in none" if missing else "one is in two"
        hint = f"Every parameter belongs into exactly one bucket; {lost}. Is the last bucket returned too?"
    elif flat == list(range(len(sizes))) and len(sizes) > 1:
        hint = "These are in the order of the model. Gradients come in the reverse order: the last parameter first."
    elif any(not bucket for bucket in got):
        hint = "One bucket is empty. Begin a new bucket only when the present one holds something."
    elif flat != [i for bucket in want for i in bucket]:
        hint = "Keep the reverse order also *within* a bucket, and sort nothing by size."
    else:
        full = [sum(sizes[i] for i in bucket) for bucket in got]
        over = [f for f, bucket in zip(full, got, strict=True) if f > capacity and len(bucket) > 1]
        hint = (
            f"One bucket holds {over[0]} with a capacity of {capacity}: look whether it fits *before* you put it in."
            if over
            else "Some bucket was closed though the next parameter would have fitted: `<=`, not `<`, and count from 0."
        )
    raise NotOk(
        ("given", answer.call(sizes, capacity)), ("expected", _short(want)), ("got", _short(got)), hint=hint
    )  # fmt: skip


def _short(buckets: list[list[int]]) -> str:
    text = str(buckets)
    return text if len(text) <= 80 else text[:77] + "..."


@check_cut_into_buckets.point(
    "the last parameter comes first, and buckets fill up to their capacity",
    hint="Go through range(len(sizes)) backwards; add up what the present bucket holds.",
)
def _(answer: Answer, rng: Rng) -> None:
    _same(answer, [3, 1, 2, 2, 1], 4)
    for _ in range(5):
        sizes = rng.integers(1, 10, int(rng.integers(6, 15))).tolist()
        _same(answer, sizes, int(rng.integers(max(sizes), 30)))


@check_cut_into_buckets.point(
    "a bucket may be exactly full",
    hint="Sizes 2 and 2 fit into a capacity of 4.",
)
def _(answer: Answer, rng: Rng) -> None:
    size, each = int(rng.integers(2, 9)), int(rng.integers(2, 5))
    _same(answer, [size] * (3 * each), size * each)


@check_cut_into_buckets.point(
    "one larger than the capacity gets a bucket of its own, wherever it stands",
    hint="It cannot be cut. The bucket before it is closed, and so is its own when the next one comes.",
)
def _(answer: Answer, rng: Rng) -> None:
    for place in (0, 2, 4):
        sizes = rng.integers(1, 4, 5).tolist()
        sizes[place] = int(rng.integers(20, 30))
        _same(answer, sizes, 8)


@check_cut_into_buckets.point(
    "many parameters, one, none",
    hint="No parameters, no buckets: []. One parameter: [[0]].",
)
def _(answer: Answer, rng: Rng) -> None:
    for n in (300, 1, 0):
        _same(answer, rng.integers(1, 50, n).tolist(), 120)

"""08.3: the most weights that a rank of stage 3 holds at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_peak_parameters = Check("zero_from_scratch.3", "peak_parameters", parameters=("layers", "rest", "ranks"))


def _peak(layers: list[int], rest: int, ranks: int) -> int:
    shards = sum(-(-size // ranks) for size in (*layers, rest))
    pairs = [a + b for a, b in pairwise(layers)] or layers
    return shards + rest + max(pairs)


def _look(answer: Answer, layers: list[int], rest: int, ranks: int) -> None:
    shards = sum(-(-size // ranks) for size in (*layers, rest))
    total = sum(layers) + rest
    pairs = [a + b for a, b in pairwise(layers)] or layers
    suspects: dict[str, Any] = {
        "That is the whole model: a replica. Stage 3 has two layers whole at a time.": total,
        "That is the whole model beside the shards. Layers are released again.": shards + total,
        "The shards are missing: a rank keeps its part of everything, all the time.": rest + max(pairs),
        "What lies outside of the layers is gathered for the whole pass: add `rest`.": shards + max(pairs),
        "That has one layer at a time. With prefetch the next one is there as well.": shards + rest + max(layers),
        "The two largest layers need not be neighbours. Which pair follows each other?": shards
        + rest
        + sum(sorted(layers)[-2:]),
        "Only the shards are there at rest; the question is for the largest moment.": shards,
        "Each vector is padded for itself: round every shard up.": total // ranks + rest + max(pairs),
        "Each vector is padded for itself: round up vector by vector, not in the end.": -(-total // ranks)
        + rest
        + max(pairs),
    }
    want = _peak(layers, rest, ranks)
    answer.expect(want, layers, rest, ranks, suspects={k: v for k, v in suspects.items() if v != want})


@check_peak_parameters.point(
    "the shard of everything, the rest, and two layers in a row",
    hint="shards of all vectors + rest + the largest sum of two neighbours.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        ranks = int(rng.integers(2, 9))
        layers = (ranks * rng.permutation(np.arange(10, 40))[: int(rng.integers(4, 9))]).tolist()
        _look(answer, layers, ranks * int(rng.integers(3, 9)), ranks)


@check_peak_parameters.point(
    "the largest neighbours, not the two largest layers",
    hint="Go through itertools.pairwise(layers).",
)
def _(answer: Answer, rng: Rng) -> None:
    small, large = int(rng.integers(4, 9)), int(rng.integers(50, 90))
    _look(answer, [4 * large, 4 * small, 4 * (small + 1), 4 * (large + 1)], 8, 4)


@check_peak_parameters.point(
    "sizes that the ranks do not divide",
    hint="A vector of 10 over 4 ranks has shards of 3: ceil(size / ranks), for each layer and for the rest.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (4, 7):
        layers = (ranks * rng.integers(3, 9, 6) + rng.integers(1, ranks, 6)).tolist()
        _look(answer, layers, ranks * int(rng.integers(2, 6)) + 1, ranks)


@check_peak_parameters.point(
    "one layer, or nothing outside of the layers",
    hint="A single layer has no neighbour. `rest` may be 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    size = int(rng.integers(20, 60))
    _look(answer, [size], int(rng.integers(5, 9)), 3)
    _look(answer, [size, size + 3, size + 1], 0, 2)

"""05.2: the norm of a gradient that many ranks hold together."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Gradients = list[NDArray[np.float64]]

check_global_norm = Check("hybrid_parallelism.2", "global_norm", parameters=("sizes", "cut", "whole"))


def _model(rng: Rng, sizes: tuple[int, int, int], own: int = 7, shared: int = 3) -> tuple[Gradients, Gradients]:
    """Each rank's gradients: replicas hold the same; of one stage, slices differ in ``cut`` and agree in ``whole``."""
    data, pipeline, tensor = sizes
    cut = [rng.normal(size=own + stage) for stage in range(pipeline) for _ in range(tensor)] * data
    whole = [row for stage in range(pipeline) for row in [rng.normal(size=shared + stage)] * tensor] * data
    return [x.copy() for x in cut], [x.copy() for x in whole]


def _square(rows: Gradients) -> float:
    return sum(float(row @ row) for row in rows)


def _expect(answer: Answer, sizes: tuple[int, int, int], cut: Gradients, whole: Gradients) -> None:
    data, pipeline, tensor = sizes
    replica = pipeline * tensor
    stages = range(0, replica, tensor)
    right = _square(cut[:replica]) + _square([whole[i] for i in stages])
    ranks = "each rank's gradients" if data * replica > 4 else "the ranks' gradients"
    suspects = {
        "The replicas hold the same gradient, averaged already: count one of them.": data * right,
        "What the tensor axis holds whole stands on each of its ranks: count it once.": _square(cut[:replica])
        + _square(whole[:replica]),
        "All ranks were added up here. Which numbers stand on several ranks?": _square(cut) + _square(whole),
        "This is what the ranks of the first stage hold. The other stages hold other layers.": _square(cut[:tensor])
        + _square(whole[:1]),
        "The first slice's share of the cut parameters alone is not all of them: add up the slices.": _square(
            [cut[i] for i in stages]
        )
        + _square([whole[i] for i in stages]),
        "Here all slices were divided by the number of slices; only what is whole is counted too often.": _square(
            cut[:replica]
        )
        / tensor
        + _square([whole[i] for i in stages]),
        "The parameters that are whole belong to the norm as well.": _square(cut[:replica]),
        "The average over replicas was taken of the squares' sum: it was not their mean that was asked.": right / data,
    }
    explained = {sentence: math.sqrt(value) for sentence, value in suspects.items() if not math.isclose(value, right)}
    explained["That is the square of the norm: take the root of the sum."] = right
    once = [*cut[:replica], *(whole[i] for i in stages)]
    explained["Norms do not add up; their squares do. Take one root, at the end."] = sum(
        math.sqrt(_square([row])) for row in once
    )
    given = f"{answer.name}({sizes}, cut, whole) with {ranks}"
    answer.expect(math.sqrt(right), sizes, cut, whole, given=given, suspects=explained, rtol=1e-9)


@check_global_norm.point(
    "one rank: the root of the sum of all squares",
    hint="Both lists belong to the gradient: cut[0] and whole[0] together.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(3):
        _expect(answer, (1, 1, 1), *_model(rng, (1, 1, 1)))


@check_global_norm.point(
    "tensor axis: slices add up, what is whole counts once",
    hint="Two slices hold different halves of each matrix, and the same LayerNorm.",
)
def _(answer: Answer, rng: Rng) -> None:
    for tensor in (2, 3, int(rng.integers(4, 9))):
        _expect(answer, (1, 1, tensor), *_model(rng, (1, 1, tensor)))


@check_global_norm.point(
    "pipeline axis: stages hold different layers",
    hint="Every stage has a cut and a whole part of its own, and all of them count.",
)
def _(answer: Answer, rng: Rng) -> None:
    for pipeline in (2, 3, int(rng.integers(4, 7))):
        _expect(answer, (1, pipeline, 1), *_model(rng, (1, pipeline, 1)))


@check_global_norm.point(
    "data axis: replicas hold the same",
    hint="The gradients are averaged already when the norm is taken. A replica more changes nothing.",
)
def _(answer: Answer, rng: Rng) -> None:
    for data in (2, int(rng.integers(3, 6))):
        _expect(answer, (data, 1, 1), *_model(rng, (data, 1, 1)))


@check_global_norm.point(
    "all three at once",
    hint="Rank = (replica * pipeline + stage) * tensor + slice, with sizes = (data, pipeline, tensor).",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((2, 2, 2), (3, 2, 4), (2, 5, 3)):
        _expect(answer, sizes, *_model(rng, sizes))


@check_global_norm.point(
    "a rank may have nothing cut, or nothing whole",
    hint="Empty arrays are arrays: their squares add up to 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    for sizes in ((2, 2, 2), (1, 1, 2)):
        cut, whole = _model(rng, sizes)
        _expect(answer, sizes, [row[:0] for row in cut], whole)
        _expect(answer, sizes, cut, [row[:0] for row in whole])

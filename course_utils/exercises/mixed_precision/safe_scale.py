"""07.1: the largest power of two by which a loss may be multiplied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_largest_safe_scale = Check("mixed_precision.1", "largest_safe_scale", parameters=("gradients", "largest"))

LARGEST = {"FP16": 65504.0, "FP8 E5M2": 57344.0, "FP8 E4M3": 448.0}


def _scale(gradients: NDArray[np.float32], largest: float) -> float:
    return 2.0 ** math.floor(math.log2(largest / float(np.abs(gradients.astype(np.float64)).max())))


def _mistakes(gradients: NDArray[np.float32], largest: float) -> dict[str, float]:
    right, top = _scale(gradients, largest), float(np.abs(gradients).max())
    signed, typical = float(gradients.max()), float(np.abs(gradients).mean())
    mistakes = {
        "That scale is no power of two, so it would round every gradient: go down to the next power of two.": largest
        / top,
        "That is one power of two too high: the largest gradient would overflow. Round the exponent down.": 2 * right,
        "That is one power of two too low: twice as much would still be safe.": right / 2,
        "Negative gradients overflow too: look at absolute values.": 2.0 ** math.floor(math.log2(largest / signed))
        if signed > 0
        else 1.0,
        "This makes the mean fit. The largest must fit: one overflow and the step is lost.": 2.0
        ** math.floor(math.log2(largest / typical)),
    }
    return {sentence: value for sentence, value in mistakes.items() if value != right}


def _gradients(rng: Rng, n: int = 500) -> NDArray[np.float32]:
    """Gradients over many powers of two, like real ones; the largest is positive."""
    size = np.exp2(rng.normal(-20, 4, n))
    sign = np.where(rng.random(n) < 0.5, -1, 1)
    sign[size.argmax()] = 1
    return (size * sign).astype(np.float32)


@check_largest_safe_scale.point(
    "real gradients in FP16: a power of two, the largest with which none passes 65504",
    hint="largest / max|g| is the bound; the answer is the largest power of two that does not pass it.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(6):
        g = _gradients(rng)
        answer.expect(_scale(g, 65504.0), g, 65504.0, suspects=_mistakes(g, 65504.0))


@check_largest_safe_scale.point(
    "negative gradients count by their size",
    hint="-70000 does not fit into FP16 either: take np.abs before the maximum.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(4):
        g = _gradients(rng)
        g[g.argmax()] *= -8  # the largest in size is negative, by far
        answer.expect(_scale(g, 65504.0), g, 65504.0, suspects=_mistakes(g, 65504.0))


@check_largest_safe_scale.point(
    "other formats: the bound is the argument, not FP16's",
    hint="Use `largest`: 448 in FP8 E4M3, 57344 in FP8 E5M2.",
)
def _(answer: Answer, rng: Rng) -> None:
    for largest in LARGEST.values():
        g = _gradients(rng, 33)
        answer.expect(_scale(g, largest), g, largest, suspects=_mistakes(g, largest))


@check_largest_safe_scale.point(
    "gradients that are too large already need a scale below 1",
    hint="The exponent may be negative: 2.0 ** math.floor(...) handles that, a loop that only doubles does not.",
)
def _(answer: Answer, rng: Rng) -> None:
    for power in rng.integers(18, 40, 3):
        g = _gradients(rng) * np.float32(2.0**power * 2**20)
        answer.expect(_scale(g, 448.0), g, 448.0, suspects=_mistakes(g, 448.0))


@check_largest_safe_scale.point(
    "gradients of any shape; some of them zero",
    hint="Zeros never overflow. No loop over rows is needed: np.abs(gradients).max() takes any shape.",
)
def _(answer: Answer, rng: Rng) -> None:
    for shape in ((7, 3), (1,), (2, 5, 3), ()):
        g = np.asarray(_gradients(rng, max(1, math.prod(shape))).reshape(shape))
        if g.size > 1:
            g[np.abs(g) < np.median(np.abs(g))] = 0
        answer.expect(_scale(g, 65504.0), g, 65504.0, suspects=_mistakes(g, 65504.0))

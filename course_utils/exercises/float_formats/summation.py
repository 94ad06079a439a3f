"""06.4: a compensated sum in float32 that also survives a value larger than the sum (Neumaier 1974)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_neumaier_sum = Check("float_formats.4", "neumaier_sum", parameters=("values",))
Float32s = NDArray[np.float32]


def _sums(
    answer: Answer, values: Float32s, *, ulps: float = 0, given: str = "", suspects: dict[str, float] | None = None
) -> None:
    """``answer(values)`` is the float32 nearest to the exact sum, within ``ulps`` units in its last place."""
    exact = np.float32(math.fsum(values.tolist()))
    got = answer(values)
    call = ("given", given or answer.call(values))
    if np.ndim(got) or getattr(got, "dtype", None) != np.float32:
        kind = getattr(got, "dtype", type(got).__name__)
        wrong_kind = ("expected", "one float32 number"), ("got", f"{kind} {brief(got)}")
        raise NotOk(call, *wrong_kind, hint="Keep every step in float32.")
    error = abs(float(got) - float(exact)) / float(np.spacing(abs(exact)))
    if not error <= ulps:
        hint = next((text for text, value in (suspects or {}).items() if value == got), "")
        seen = f"{brief(got)}, off by {error:.3g} units in the last place"
        raise NotOk(call, ("expected", brief(exact)), ("got", seen), hint=hint)


@check_neumaier_sum.point(
    "small values are not lost beside a large sum",
    hint="2^24 + 1 is 2^24 in float32. What was lost is (total - new) + value: add up all that was lost.",
)
def _(answer: Answer, rng: Rng) -> None:
    ones = 2 * int(rng.integers(20, 200))
    values = np.array([2.0**24] + [1.0] * ones, dtype=np.float32)
    suspects = {
        "That is the sum without compensation: what each addition loses must be kept, and added at the end.": 2.0**24,
        "The compensation has the wrong sign: it takes away once more what was lost.": 2.0**24 - ones,
    }
    _sums(answer, values, given=f"2^24 followed by {ones} ones", suspects=suspects)


@check_neumaier_sum.point(
    "large values are not lost either: a large value after a small sum, and large values that cancel",
    hint="When |value| > |total|, total loses digits: the loss is (value - new) + total. Compare absolute values.",
)
def _(answer: Answer, rng: Rng) -> None:
    # With 2^30 float64 would still do; with 2^60 and more it no longer holds the small values beside the large one.
    for exponent in (30, 30, int(rng.integers(60, 80))):
        a, b = (float(n) for n in rng.integers(1, 60, 2))
        for large in (2.0**exponent, -(2.0**exponent)):
            in_float64 = a + large + b - large
            suspects = (
                {"The sum in float64 gives this: every step must be in float32.": in_float64} if exponent > 30 else {}
            )
            _sums(answer, np.array([a, large, b, -large], dtype=np.float32), suspects=suspects)


@check_neumaier_sum.point(
    "the mean of an image: 30,001 pixel values, added up to one unit in the last place",
    hint="Add the compensation to the total once, after the loop.",
)
def _(answer: Answer, rng: Rng) -> None:
    _sums(answer, (rng.integers(0, 256, 30_001) / 255).astype(np.float32), ulps=1)


@check_neumaier_sum.point(
    "values of both signs, large and small, in any order",
    hint="Go through the values once, in their order. No sorting, no pairs: it must work while the values arrive.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(4):
        large = 2.0 ** rng.integers(60, 100) * np.where(np.arange(12) % 2, 1, -1)
        values = rng.permutation(np.concatenate([rng.integers(1, 999, 25), -rng.integers(1, 999, 8), large]))
        _sums(answer, values.astype(np.float32))


@check_neumaier_sum.point(
    "any length, odd ones and none, gives one float32 number",
    hint="Start from np.float32(0), so that the sum of nothing is 0 and every step stays in float32.",
)
def _(answer: Answer, rng: Rng) -> None:
    for n in (1, 2, 3, 7, 33, 0):
        _sums(answer, rng.uniform(1, 2, n).astype(np.float32), ulps=1)

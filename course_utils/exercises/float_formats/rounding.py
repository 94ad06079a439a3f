"""06.2: round to m mantissa bits, ties to even."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.exercises.float_formats.layouts import ieee

Values = NDArray[np.float64]
Rng = np.random.Generator

check_round_to_nearest_even = Check("float_formats.2", "round_to_nearest_even", parameters=("x", "mantissa_bits"))


def _mistakes(x: Values, m: int) -> dict[str, Values]:
    """What known mistakes make of x: the sentence that explains each -> its result."""
    q = np.frexp(x)[1] - 1 - m  # neighbours lie 2^q apart

    def by(to_integer: Callable[[Values], Values], bits: int = 0) -> Values:
        return np.ldexp(to_integer(np.ldexp(x, bits - q)), q - bits)

    away = by(lambda steps: np.copysign(np.floor(abs(steps) + 0.5), steps))
    return {
        "The digits after the m-th are cut off here. Go to the nearer neighbour.": by(np.trunc),
        "This rounds down, away from zero for negative numbers.": by(np.floor),
        "Halves go up here. At a tie, take the neighbour whose last bit is 0.": by(lambda steps: np.floor(steps + 0.5)),
        "Halves go away from zero here. At a tie, take the neighbour whose last bit is 0.": away,
        "One bit is missing: m mantissa bits and the hidden bit make 1 + m significant bits.": by(np.rint, -1),
        "That is one bit too many: the hidden bit is one of the 1 + m significant bits.": by(np.rint, 1),
        "np.round counts decimal digits after the point; here m binary digits must remain.": np.round(x, m),
    }


def _rounds(answer: Answer, x: Values, m: int) -> None:
    """``answer(x, m)`` is x rounded to m mantissa bits, for finite x and m < 52."""
    answer.expect(ieee(11, m).round(x), x, m, suspects=_mistakes(x, m))


@check_round_to_nearest_even.point(
    "a number goes to the nearer of its two neighbours",
    hint="Count x in steps of 2^(exponent - m), where 2^exponent <= |x| < 2^(exponent + 1), and round that count.",
)
def _(answer: Answer, rng: Rng) -> None:
    for m in (2, 7, int(rng.integers(3, 24))):
        x = rng.uniform(1, 1.85, 41) * 2.0 ** rng.integers(-20, 20, 41)
        _rounds(answer, x, m)


@check_round_to_nearest_even.point(
    "a tie goes to the neighbour whose last bit is 0",
    hint="With m = 2, 1.125 lies half-way between 1.0 and 1.25 and goes to 1.0; 1.375 is a tie too and goes to 1.5.",
)
def _(answer: Answer, rng: Rng) -> None:
    for m in (2, int(rng.integers(2, 24))):
        last = rng.integers(2**m, 2 ** (m + 1) - 1, 20)
        steps = np.concatenate([last, 2**m + np.arange(2)]) + 0.5  # even and odd below the tie
        _rounds(answer, steps * 2.0 ** rng.integers(-9, 9), m)


@check_round_to_nearest_even.point(
    "negative numbers round like positive ones",
    hint="Rounding to nearest is symmetric: the result for -x is minus the result for x.",
)
def _(answer: Answer, rng: Rng) -> None:
    m = int(rng.integers(2, 24))
    ties = rng.integers(2**m, 2 ** (m + 1) - 1, 11) + 0.5
    others = rng.uniform(1, 1.85, 12) * 2.0 ** rng.integers(-9, 9, 12)
    _rounds(answer, -np.concatenate([ties, others]), m)


@check_round_to_nearest_even.point(
    "a carry: just below a power of two, rounding up reaches that power",
    hint="With m = 2, 1.9 goes to 2.0, which has a larger exponent. Do not limit the significand to what fits below 2.",
)
def _(answer: Answer, rng: Rng) -> None:
    for m in (2, int(rng.integers(3, 24))):
        power = 2.0 ** rng.integers(-9, 9, 7)
        x = power * (2 - 2.0 ** -(m + 2)) * np.where(np.arange(7) % 2, 1, -1)
        answer.expect(ieee(11, m).round(x), x, m)


@check_round_to_nearest_even.point(
    "very large and very small numbers, zeros, infinity and NaN",
    hint="np.frexp splits any number, 0 too, without a logarithm (log2(0) is -inf). np.ldexp puts it together again.",
)
def _(answer: Answer, rng: Rng) -> None:
    m = int(rng.integers(3, 11))
    x = np.array([1.3e-300, -7.7e-200, 0.0, -0.0, 1.7e200, 1.1e300, math.inf, -math.inf, math.nan])
    answer.expect(ieee(11, m).round(x), x * 1.0, m)


@check_round_to_nearest_even.point(
    "arrays of any shape give a float64 array of that shape",
    hint="Work on the whole array: no loop over len(x), no reshape. A 0-d array and an empty one are arrays too.",
)
def _(answer: Answer, rng: Rng) -> None:
    m = int(rng.integers(3, 11))
    for shape in ((), (1,), (0,), (3, 1, 5), (2, 7)):
        x = rng.normal(size=shape)
        want = np.asarray(ieee(11, m).round(x))
        answer.expect(want if shape else float(want), np.asarray(x), m)
    x = rng.normal(size=(6, 4)).T[::2]  # rows that do not lie side by side in memory
    answer.expect(ieee(11, m).round(x), x, m)

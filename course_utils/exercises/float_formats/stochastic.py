"""06.3: stochastic rounding, tested by its statistics."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check

Values = NDArray[np.float64]
Rng = np.random.Generator

check_stochastic_round = Check("float_formats.3", "stochastic_round", parameters=("x", "spacing", "rng"))
SIGMAS = 6.0  # a right answer is outside by chance once in 500 million looks


def _steps(answer: Answer, x: Values, spacing: float, rng: Rng) -> Values:
    """The answer for x, counted in steps of ``spacing``, after it was seen to lie on one of x's two neighbours."""
    given = ("given", answer.call(x, spacing, rng))
    y = answer(x, spacing, rng)
    if not isinstance(y, np.ndarray) or y.shape != x.shape or y.dtype != np.float64:
        got = f"{y.dtype} array of shape {y.shape}" if isinstance(y, np.ndarray) else f"{type(y).__name__} {brief(y)}"
        raise NotOk(
            given,
            ("expected", f"float64 array of shape {x.shape}"),
            ("got", got),
            hint="Keep the shape and dtype of x.",
        )
    steps, x_steps = np.asarray(y / spacing), x / spacing  # spacing is a power of two, so this is exact
    off = steps != np.rint(steps)
    if off.any():
        seen = f"{brief(x[off][0])} -> {brief(y[off][0])}"
        raise NotOk(
            given,
            ("expected", "whole multiples of spacing"),
            ("got", seen),
            hint="Round x / spacing, then multiply again.",
        )
    far = (steps != np.floor(x_steps)) & (steps != np.ceil(x_steps))
    if far.any():
        below, above = (float(f(x_steps[far][0]) * spacing) for f in (np.floor, np.ceil))
        want = f"{below!r}, where it is" if below == above else f"{below!r} or {above!r}"
        if ((y == np.floor(x_steps)) | (y == np.ceil(x_steps))).all():
            hint = "This counts steps: multiply by spacing at the end."
        else:
            hint = (
                "x is on the grid already and must stay." if below == above else "The result must be a neighbour of x."
            )
        seen = f"{brief(x[far][0])} -> {brief(y[far][0])}"
        raise NotOk(given, ("expected", want), ("got", seen), hint=hint)
    return steps


def _unbiased(answer: Answer, fractions: Values, lower: int, spacing: float, rng: Rng) -> None:
    """x = (lower + fraction) * spacing goes up in ``fraction`` of many draws, within 6 standard errors."""
    n = 4000
    x = np.tile((lower + fractions) * spacing, (n, 1))  # [n, values]
    up = _steps(answer, x, spacing, rng).mean(axis=0) - lower
    error = SIGMAS * np.sqrt(fractions * (1 - fractions) / n)
    off = abs(up - fractions) > error
    if off.any():
        at = int(off.argmax())
        share, f = float(up[at]), float(fractions[at])
        hint = ""
        if share in (0.0, 1.0) and lower >= 0:
            hint = "It always goes the same way here: stochastic rounding must sometimes take the other neighbour."
        elif (abs(up - (1 - fractions)) <= error).all():
            hint = "The probabilities are the wrong way round: the nearer neighbour must be the likelier one."
        elif (abs(up - 0.5) <= SIGMAS * 0.5 / math.sqrt(n)).all():
            hint = "A fair coin ignores where x lies: a quarter of the way up must mean a quarter of the cases."
        raise NotOk(
            ("given", f"{answer.name}(x, {spacing}, rng) with x = {(lower + f) * spacing!r}, {n} times"),
            ("expected", f"up to {(lower + 1) * spacing!r} in {f:.1%} of the cases, +- {float(error[at]):.1%}"),
            ("got", f"up in {share:.1%}"),
            hint=hint,
        )


def _spacing(rng: Rng) -> float:
    return float(2.0 ** rng.choice([-8, -5, -3, -2, -1, 1, 2, 3]))  # not 1: forgetting to multiply must show


@check_stochastic_round.point(
    "the mean is right: x goes up with the probability of its fraction",
    hint="If x lies a fraction f of the way to the next grid value, go up when a random number in [0, 1) is below f.",
)
def _(answer: Answer, rng: Rng) -> None:
    _unbiased(answer, np.array([0.0625, 0.25, 0.5, 0.9]), int(rng.integers(0, 9)), _spacing(rng), rng)


@check_stochastic_round.point(
    "negative numbers: up means towards +infinity, and the mean is right as well",
    hint="np.floor goes down for every sign; np.trunc goes towards zero, which is up for negative numbers.",
)
def _(answer: Answer, rng: Rng) -> None:
    _unbiased(answer, np.array([0.0625, 0.25, 0.5, 0.9]), -int(rng.integers(2, 9)), _spacing(rng), rng)


@check_stochastic_round.point(
    "every element draws its own random number",
    hint="rng.random() is one number for the whole array; rng.random(x.shape) is one for each element.",
)
def _(answer: Answer, rng: Rng) -> None:
    shape = (64, 3, 65)
    steps = _steps(answer, np.full(shape, 0.5) * (spacing := _spacing(rng)), spacing, rng)
    for axis in range(3):
        together = (steps.max(axis=axis) == steps.min(axis=axis)) if shape[axis] > 3 else np.diff(steps, axis=axis) == 0
        if together.mean() > 0.6:
            lines = ("given", f"x of shape {shape}, each element half-way between two neighbours")
            alone = "elements that differ only in the index of axis " + str(axis)
            raise NotOk(lines, ("expected", "each goes up or down on its own"), ("got", f"{alone} go together"))


@check_stochastic_round.point(
    "what lies on the grid stays, and only that",
    hint="A fraction of 0 must never go up: rng.random() is in [0, 1), so compare with <, not with <=.",
)
def _(answer: Answer, rng: Rng) -> None:
    spacing = _spacing(rng)
    on = rng.integers(-50, 50, 1001).astype(np.float64)
    between = on + rng.uniform(0.1, 0.9, 1001)
    x = np.stack([on, between]) * spacing
    steps = _steps(answer, x, spacing, rng)
    if not (steps[1] != np.floor(between)).any() or not (steps[1] != np.ceil(between)).any():
        seen = "all down" if (steps[1] == np.floor(between)).all() else "all up"
        raise NotOk(
            ("given", answer.call(x, spacing, rng)),
            ("expected", "some up, some down between grid values"),
            ("got", seen),
        )


@check_stochastic_round.point(
    "the random numbers come from rng: the same seed repeats a result, the next call differs",
    hint="Draw with rng.random(...), not from np.random or a generator made inside: an experiment must be repeatable.",
)
def _(answer: Answer, rng: Rng) -> None:
    seed, spacing = int(rng.integers(1 << 30)), _spacing(rng)
    x = rng.uniform(-9, 9, (7, 33)) * spacing
    one, two = np.random.default_rng(seed), np.random.default_rng(seed)
    first, again, following = (_steps(answer, x, spacing, g) for g in (one, two, one))
    given = ("given", f"{answer.call(x, spacing, one)} with rng = np.random.default_rng({seed})")
    if (first != again).any():
        raise NotOk(
            given, ("expected", "the same result from two generators of the same seed"), ("got", "different results")
        )
    if (first == following).all():
        hint = "The second call with the same rng repeated the first: its random numbers do not come from rng."
        raise NotOk(
            given, ("expected", "other random numbers in the second call"), ("got", "the same result"), hint=hint
        )

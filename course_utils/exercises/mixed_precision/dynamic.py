"""07.3: what a dynamic scaler does to its scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.precision.scaling import LossScaler

Rng = np.random.Generator
Flags = NDArray[np.bool_]

check_scale_trace = Check("mixed_precision.3", "scale_trace", parameters=("finite", "scale", "growth_interval"))


def _trace(finite: Flags, scale: float, growth_interval: int) -> NDArray[np.float64]:
    scaler, used = LossScaler(scale, growth_interval=growth_interval), []
    for ok in finite:
        used.append(scaler.scale)
        scaler.update(bool(ok))
    return np.array(used, dtype=np.float64)


def _variant(
    finite: Flags, scale: float, interval: int, *, reset_on_overflow: bool = True, reset_on_growth: bool = True,
    late: int = 0, backoff: float = 0.5, after: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    used, good = [], 0
    for ok in finite:
        used.append(scale)
        if ok:
            good += 1
            if good >= interval + late:
                scale, good = scale * 2, 0 if reset_on_growth else good
        else:
            scale, good = scale * backoff, 0 if reset_on_overflow else good
        if after:
            used[-1] = scale
    return np.array(used, dtype=np.float64)


def _mistakes(finite: Flags, scale: float, interval: int) -> dict[str, NDArray[np.float64]]:
    found = {
        "That is the scale after each step. Note it before the step changes it.": _variant(
            finite, scale, interval, after=True
        ),
        "An overflow must set the count of good steps back to 0.": _variant(
            finite, scale, interval, reset_on_overflow=False
        ),
        "After growing, the count of good steps must start again at 0.": _variant(
            finite, scale, interval, reset_on_growth=False
        ),
        "It grows one good step too late.": _variant(finite, scale, interval, late=1),
        "It never comes down: halve the scale after a step that is not finite.": _variant(
            finite, scale, interval, backoff=1.0
        ),
        "It never grows.": _variant(finite, scale, len(finite) + 1),
    }
    right = _trace(finite, scale, interval)
    return {sentence: value for sentence, value in found.items() if not np.array_equal(value, right)}


def _looks(answer: Answer, finite: Flags, scale: float, interval: int) -> None:
    shown = "".join("." if ok else "x" for ok in finite[:30]) + ("..." if len(finite) > 30 else "")
    answer.expect(
        _trace(finite, scale, interval), finite, scale, interval,
        given=f"{len(finite)} steps ({shown}; x is an overflow), scale {scale:g}, growth_interval {interval}",
        suspects=_mistakes(finite, scale, interval),
    )  # fmt: skip


@check_scale_trace.point(
    "an overflow halves the scale for the steps that follow",
    hint="finite[i] is False: step i still ran with the old scale, step i + 1 has half of it.",
)
def _(answer: Answer, rng: Rng) -> None:
    finite = np.ones(17, dtype=bool)
    finite[rng.choice(np.arange(1, 15), 3, replace=False)] = False
    _looks(answer, finite, 2.0 ** int(rng.integers(8, 30)), 100)


@check_scale_trace.point(
    "growth_interval good steps in a row double it",
    hint="Count the good steps. When the count reaches growth_interval, double the scale and count from 0 again.",
)
def _(answer: Answer, rng: Rng) -> None:
    for interval in (3, int(rng.integers(4, 9))):
        _looks(answer, np.ones(5 * interval + 2, dtype=bool), 2.0 ** int(rng.integers(0, 20)), interval)


@check_scale_trace.point(
    "good steps count only in a row",
    hint="Two good steps, an overflow and two good steps are not four in a row.",
)
def _(answer: Answer, rng: Rng) -> None:
    interval = int(rng.integers(4, 9))
    finite = np.ones(6 * interval, dtype=bool)
    finite[interval - 2 :: interval - 1] = False  # never `interval` good steps in a row
    _looks(answer, finite, 2.0**16, interval)


@check_scale_trace.point(
    "long runs, by chance; the scale may go below 1",
    hint="No bound at either end: 2^-3 is a fine scale.",
)
def _(answer: Answer, rng: Rng) -> None:
    for chance, interval in ((0.9, 5), (0.5, 2), (0.97, 20)):
        _looks(answer, rng.random(301) < chance, 4.0, interval)


@check_scale_trace.point(
    "one number for each step: none for no steps, and float64",
    hint="The first number is the scale that was given. Build the array with dtype np.float64.",
)
def _(answer: Answer, rng: Rng) -> None:
    for n in (3, 1, 0):
        _looks(answer, rng.random(n) < 0.5, 1024.0, 1)

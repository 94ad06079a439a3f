"""03.3: where to cut a model whose layers take different times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check

Rng = np.random.Generator
Seconds = NDArray[np.float64]

check_balanced_cut = Check("pipeline_parallelism.3", "balanced_cut", parameters=("seconds", "stages"))


def _times(seconds: Seconds, layers: list[int]) -> list[float]:
    ends = np.cumsum([0, *layers])
    return [float(seconds[start:end].sum()) for start, end in pairwise(ends)]


def _fastest(seconds: Seconds, stages: int) -> float:
    """The time of the slowest stage in the best cut: over the first layers, with one stage more at a time."""
    total = np.concatenate([[0.0], np.cumsum(seconds)])
    best = list(total)  # best[n]: the first n layers in one stage
    for _ in range(stages - 1):
        best = [min((max(best[k], total[n] - total[k]) for k in range(n)), default=np.inf) for n in range(len(total))]
    return float(best[-1])


def _cut(answer: Answer, seconds: Seconds, stages: int) -> list[int]:
    """The learner's numbers of layers, when they are a cut at all."""
    got = answer(seconds, stages)
    given = ("given", f"layers of {brief(seconds)} s, {stages} stages")
    layers = got.tolist() if isinstance(got, np.ndarray) else got
    if not isinstance(layers, list) or not all(isinstance(n, int | np.integer) for n in layers):
        raise NotOk(given, ("expected", "a list of whole numbers, one for each stage"), ("got", repr(got)[:60]))
    shown = ("got", str(layers))
    if len(layers) != stages:
        raise NotOk(given, ("expected", f"{stages} numbers, one for each stage"), shown)
    if stages > 1 and layers == [len(seconds)] * stages:
        raise NotOk(given, shown, hint="All layers on every rank is no cut: each layer belongs to one stage.")
    if stages > 1 and layers[-1] == len(seconds) and layers == sorted(layers):
        raise NotOk(given, shown, hint="These look like the places of the cuts: return how many layers each stage has.")
    if sum(layers) != len(seconds):
        raise NotOk(
            given, ("expected", f"{len(seconds)} layers in all"), (shown[0], f"{shown[1]}, {sum(layers)} in all")
        )
    if min(layers) < 1:
        raise NotOk(given, shown, hint="A stage without a layer: that rank would have nothing to do.")
    return layers


def _looks(answer: Answer, seconds: Seconds, stages: int) -> None:
    layers = _cut(answer, seconds, stages)
    slowest, best = max(_times(seconds, layers)), _fastest(seconds, stages)
    if slowest > best:
        even = [len(seconds) // stages + (stage < len(seconds) % stages) for stage in range(stages)]
        hint = "Equally many layers are not equally much time: look at the seconds." if layers == even else ""
        raise NotOk(
            ("given", f"layers of {', '.join(f'{s:g}' for s in seconds)} s, {stages} stages"),
            ("expected", f"a slowest stage of {best:g} s"),
            ("got", f"{layers}, whose slowest stage takes {slowest:g} s"),
            hint=hint,
        )


@check_balanced_cut.point(
    "stages of whole layers, in a row, none of them empty, all layers used once",
    hint="Return one number for each stage: how many of the next layers it takes.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(5):
        _cut(answer, rng.integers(1, 9, int(rng.integers(6, 12))).astype(np.float64), int(rng.integers(2, 5)))


@check_balanced_cut.point(
    "the slowest stage is as fast as any cut can make it",
    hint="What looks good from the left can be bad at the end. Try limits for the slowest stage: does one suffice?",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(12):
        _looks(answer, rng.integers(1, 20, int(rng.integers(6, 13))).astype(np.float64), int(rng.integers(3, 6)))


@check_balanced_cut.point(
    "one long layer at the end, as a head over a large vocabulary is",
    hint="The long layer sets the pace. The others must not be crowded into stages that are slower still.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(5):
        seconds = rng.integers(1, 6, int(rng.integers(6, 11))).astype(np.float64)
        seconds[-1] = seconds[:-1].sum() // 2 + 1
        _looks(answer, seconds, int(rng.integers(3, 5)))


@check_balanced_cut.point(
    "one stage, and as many stages as layers",
    hint="One stage has all the layers; with as many stages as layers, each has one.",
)
def _(answer: Answer, rng: Rng) -> None:
    for layers in (int(rng.integers(3, 6)), int(rng.integers(6, 9))):
        seconds = rng.integers(1, 20, layers).astype(np.float64)
        _looks(answer, seconds, 1)
        _looks(answer, seconds, layers)

"""03.1: how many micro-batches keep the bubble small."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_enough_micro_batches = Check(
    "pipeline_parallelism.1", "enough_micro_batches", parameters=("ranks", "idle", "chunks")
)


def _fewest(ranks: int, idle: float, chunks: int) -> int:
    needed = (
        Fraction(ranks - 1) * (1 - Fraction(idle)) / (Fraction(idle) * chunks)
    )  # exact, so that no boundary is missed
    m = max(1, math.ceil(needed))
    return m if chunks == 1 else math.ceil(m / ranks) * ranks


def _mistakes(ranks: int, idle: float, chunks: int) -> dict[str, float]:
    exact, right = (ranks - 1) * (1 - idle) / (idle * chunks), _fewest(ranks, idle, chunks)
    m = max(1, math.ceil(exact))
    other = math.ceil((ranks - 1) / (idle * chunks))
    chunks_forgotten = math.ceil(math.ceil((ranks - 1) * (1 - idle) / idle) / ranks) * ranks
    found: dict[str, float] = {
        "One rank has no bubble, and yet needs one micro-batch to do anything.": 0 if ranks == 1 else right,
        "That is one too few: round up, not down.": math.floor(exact),
        "That is the number before rounding; micro-batches are whole.": exact,
        "That is for the overhead over the ideal time. Asked is the idle share of the whole step.": other,
        "With several chunks micro-batches are dealt out in groups of p: take the next multiple.": m,
        "A multiple of p is needed for interleaving only; with one chunk any number will do.": math.ceil(m / ranks)
        * ranks,
        "That is one too many: with one less the idle share is small enough.": right + 1,
        "More chunks need fewer micro-batches, not as many: divide by chunks.": chunks_forgotten,
    }
    return {sentence: value for sentence, value in found.items() if value != right}


def _looks(answer: Answer, ranks: int, idle: float, chunks: int) -> None:
    answer.expect(_fewest(ranks, idle, chunks), ranks, idle, chunks, suspects=_mistakes(ranks, idle, chunks))


def _telling(rng: Rng, *idles: float) -> tuple[int, float]:
    """Ranks and idle share for which the next multiple of p is not also the next number: that would hide a mistake."""
    while True:
        ranks, idle = int(rng.integers(3, 40)), float(rng.choice(idles) if idles else rng.uniform(0.02, 0.4))
        if (_fewest(ranks, idle, 1) + 1) % ranks:
            return ranks, idle


@check_enough_micro_batches.point(
    "one stage on each rank: (p-1)/(m+p-1) is at most `idle`, for the smallest m",
    hint="Solve (p-1)/(m+p-1) <= idle for m, and round up.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(8):
        _looks(answer, *_telling(rng), 1)


@check_enough_micro_batches.point(
    "exactly at the limit is small enough",
    hint="The idle share may be equal to `idle`: no micro-batch more than needed.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(6):
        _looks(answer, *_telling(rng, 0.25, 0.125, 0.0625), 1)  # powers of two, so that no rounding can be blamed


@check_enough_micro_batches.point(
    "several chunks: (p-1)/(m v + p-1), and m a multiple of p",
    hint="Interleaving divides the bubble by v; it deals micro-batches out in groups of p, so take a multiple of p.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(8):
        _looks(answer, int(rng.integers(3, 24)), float(rng.uniform(0.02, 0.2)), int(rng.integers(2, 6)))


@check_enough_micro_batches.point(
    "short pipelines: one rank, two ranks",
    hint="With one rank nothing is ever idle, but a step still has a micro-batch: max(1, ...).",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (1, 2):
        for idle in (0.3, float(rng.uniform(0.01, 0.1))):
            _looks(answer, ranks, idle, 1)

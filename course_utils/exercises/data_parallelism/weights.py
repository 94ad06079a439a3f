"""02.3: the gradient of the whole batch out of those of unequal micro-batches on several ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]
Counts = NDArray[np.int64]

check_global_gradient = Check("data_parallelism.3", "global_gradient", parameters=("gradients", "counts"))


def _samples(rng: Rng, counts: Counts, parameters: int) -> tuple[Array, Array]:
    """Gradients of single samples, put together as each rank would, and their true mean. [N, m, P], [P]"""
    gradients = np.full((*counts.shape, parameters), np.nan)
    everything = []
    for place in np.ndindex(*counts.shape):
        own = rng.normal(size=(counts[place], parameters)) + rng.normal()
        everything.append(own)
        if counts[place]:
            gradients[place] = own.mean(0)
    return gradients, np.concatenate(everything).mean(0)


def _mistakes(gradients: Array, counts: Counts) -> dict[str, Array]:
    ranks = len(counts)
    g = np.where(counts[..., None] > 0, gradients, 0.0)
    weighted = (g * counts[..., None]).sum((0, 1)) / counts.sum()
    by_rank = (g * counts[..., None]).sum(1) / np.maximum(counts.sum(1), 1)[:, None]
    return {
        "That is the mean of the means: a micro-batch of 2 counts as much there as one of 6.": g.mean((0, 1)),
        "Averaged over ranks twice: the weights must add up to one.": weighted / ranks,
        "Only the last micro-batch is averaged over ranks there.": g[:, :-1].sum(1)[0] / g.shape[1]
        + g[:, -1].mean(0) / g.shape[1],
        "Right within each rank; but the mean over ranks gives a rank with few samples too much weight.": by_rank.mean(
            0
        ),
        "That is the sum over all samples. Divide by how many there are.": weighted * counts.sum(),
        "Each gradient is a mean over its samples: times its count it is their sum.": g.sum((0, 1)) / counts.sum(),
        "That is rank 0's own mean: the other ranks are missing.": by_rank[0],
    }


def _looks(answer: Answer, rng: Rng, counts: Counts) -> None:
    gradients, mean = _samples(rng, counts, int(rng.integers(3, 9)))
    right = {name: value for name, value in _mistakes(gradients, counts).items() if not np.allclose(value, mean)}
    given = f"{counts.shape[0]} ranks, {counts.shape[1]} micro-batches each, of {counts.tolist()} samples"
    answer.expect(mean, gradients, counts, given=given[:110], suspects=right, rtol=1e-9, atol=1e-12)


@check_global_gradient.point(
    "equal micro-batches: the plain mean",
    hint="All weights are the same here: 1 / (ranks x micro-batches).",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, np.full((int(rng.integers(2, 6)), int(rng.integers(2, 5))), int(rng.integers(1, 9))))


@check_global_gradient.point(
    "ranks with different numbers of samples: every sample counts the same",
    hint="Mean times count is a sum over samples. Add the sums, and divide by the number of all samples.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, np.array([[6], [2]]))
    _looks(answer, rng, np.repeat(1 + rng.permutation(5)[:, None], 3, axis=1))


@check_global_gradient.point(
    "micro-batches of different sizes, on all ranks",
    hint="Weight each micro-batch by counts[r, m], not each rank.",
)
def _(answer: Answer, rng: Rng) -> None:
    for shape in ((2, 3), (5, 4), (1, 7)):
        counts = rng.integers(1, 20, shape)
        counts[0, 0] += 30
        _looks(answer, rng, counts)


@check_global_gradient.point(
    "an empty micro-batch, whose mean is NaN, counts for nothing",
    hint="NaN times 0 is NaN: leave it out with np.where(counts[..., None] > 0, gradients, 0.0), or by a mask.",
)
def _(answer: Answer, rng: Rng) -> None:
    counts = rng.integers(1, 9, (4, 3))
    counts[1], counts[3, 2] = 0, 0
    _looks(answer, rng, counts)

"""14.1: the mean loss over all images, whatever batches they come in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]

check_mean_loss = Check("vit_fine_tuning.1", "mean_loss", parameters=("logits", "labels"))


def _each(logits: Array, labels: NDArray[np.int64]) -> Array:
    """The loss of each image, [B]."""
    top = logits.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return total - logits[np.arange(len(labels)), labels]


def _look(answer: Answer, rng: Rng, sizes: list[int], classes: int, spread: float = 2.0) -> None:
    logits = [rng.normal(0, spread, (size, classes)) for size in sizes]
    labels = [rng.integers(0, classes, size) for size in sizes]
    losses = [_each(a, b) for a, b in zip(logits, labels, strict=True)]
    images, means = sum(sizes), [loss.mean() for loss in losses]
    want = float(np.concatenate(losses).mean())
    right = sum(float((a.argmax(1) == b).sum()) for a, b in zip(logits, labels, strict=True))
    suspects = {
        "This is the mean of the batches' means. A small batch counts as much as a large one in it.": np.mean(means),
        "The batches' means are divided by the number of images here: too small by about the batch size.":
            sum(means) / images,
        "This is the sum over all images, not yet their mean.": want * images,
        "The sign is turned round: the loss is minus the logarithm of the label's probability.": -want,
        "This is the last batch alone.": means[-1],
        "This is the share of right answers, not a loss.": right / images,
        "These are bits. The loss is a natural logarithm.": want / np.log(2),
    }  # fmt: skip
    given = f"{answer.name} of batches of {', '.join(map(str, sizes))} images with {classes} classes"
    others = {s: v for s, v in suspects.items() if not np.isclose(v, want, rtol=1e-6)}
    answer.expect(want, logits, labels, given=given, suspects=others, rtol=1e-5, atol=1e-9)


@check_mean_loss.point(
    "one batch",
    hint="The loss of an image is logsumexp of its logits minus the logit of its label.",
)
def _(answer: Answer, rng: Rng) -> None:
    _look(answer, rng, [int(rng.integers(5, 30))], 10)


@check_mean_loss.point(
    "the last batch is smaller",
    hint="Add up the losses of images, not the means of batches, and divide once, by the number of images.",
)
def _(answer: Answer, rng: Rng) -> None:
    _look(answer, rng, [32, 32, int(rng.integers(1, 9))], 10)


@check_mean_loss.point(
    "any cut into batches, any number of classes",
    hint="The cut must not matter: sum over all images, divided by how many there were.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(3):
        _look(answer, rng, [int(n) for n in rng.integers(1, 20, int(rng.integers(2, 7)))], int(rng.integers(2, 40)))


@check_mean_loss.point(
    "logits of several hundred",
    hint="exp(800) is inf. Take the largest logit away from all before exp, and add it again after log.",
)
def _(answer: Answer, rng: Rng) -> None:
    _look(answer, rng, [8, 3], 10, spread=900.0)

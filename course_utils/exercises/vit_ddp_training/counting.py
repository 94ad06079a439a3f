"""15.2: loss and accuracy of all ranks, out of what each of them has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Counts = NDArray[np.int64]

check_global_metrics = Check("vit_ddp_training.2", "global_metrics", parameters=("losses", "right", "seen"))


def _looks(answer: Answer, rng: Rng, seen: Counts) -> None:
    each = [rng.gamma(2.0, 1.0 + r, size=n) for r, n in enumerate(seen)]  # losses of single images
    losses = np.array([own.mean() if len(own) else np.nan for own in each])
    right = np.array([rng.integers(0, n + 1) for n in seen])
    right[seen.argmax()] = seen.max() - 1
    want = np.array([np.concatenate(each).mean(), right.sum() / seen.sum()])
    filled = np.where(seen > 0, losses, 0.0)
    share = right / np.maximum(seen, 1)
    mistakes = {
        "That is the mean of the ranks' means: a rank with few images counts as much there as one with many.": [
            filled.mean(),
            share.mean(),
        ],
        "The loss is the mean of the ranks' means: weight each by what it has seen.": [filled.mean(), want[1]],
        "The accuracy is the mean of the ranks' accuracies: add up `right` and `seen` first.": [want[0], share.mean()],
        "losses[r] is a mean already: times seen[r] it is a sum.": [filled.sum() / seen.sum(), want[1]],
        "That is rank 0 alone.": [losses[0], share[0]],
        "A rank that saw nothing has the loss NaN, and NaN times 0 is NaN: leave it out.": [np.nan, want[1]],
        "Accuracy is a share from 0 to 1 here, not per cent.": [want[0], 100 * want[1]],
    }
    suspects = {
        name: np.array(value) for name, value in mistakes.items() if not np.allclose(value, want, equal_nan=False)
    }
    answer.expect(
        want, losses, right, seen, given=f"ranks that saw {seen.tolist()} images", suspects=suspects, rtol=1e-9
    )


@check_global_metrics.point(
    "ranks that saw equally many", hint="Return np.array([loss, accuracy]), both means over all images."
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, np.full(int(rng.integers(2, 6)), int(rng.integers(5, 40))))


@check_global_metrics.point(
    "ranks that saw unequally many: every image counts the same",
    hint="Mean times count is a sum. Add sums and counts over ranks, and divide once.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, np.array([250, 1]))
    _looks(answer, rng, rng.permutation(np.arange(3, 60))[: int(rng.integers(3, 7))])


@check_global_metrics.point(
    "a rank that saw nothing counts for nothing",
    hint="Its mean loss is NaN: take np.where(seen > 0, losses, 0.0).",
)
def _(answer: Answer, rng: Rng) -> None:
    seen = rng.integers(2, 30, 5)
    seen[3] = 0
    _looks(answer, rng, seen)

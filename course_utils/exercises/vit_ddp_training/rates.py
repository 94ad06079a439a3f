"""15.3: the learning rate of a step, tied to the global batch."""

from __future__ import annotations

import math

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_rate_at = Check("vit_ddp_training.3", "rate_at", parameters=("step", "images", "batch", "epochs", "lr"))

LR_BATCH, WARMUP = 512, 0.1


def _rate(
    step: float, images: int, batch: int, epochs: int, lr: float, *, steps: float = 0, tied: float = 1.0
) -> float:
    total = steps or images // batch * epochs
    peak = lr * (batch / LR_BATCH) ** tied
    warmup = WARMUP * total
    if step < warmup:
        return peak * step / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _looks(answer: Answer, step: int, images: int, batch: int, epochs: int, lr: float) -> None:
    given = (step, images, batch, epochs, lr)
    want, total = _rate(*given), images // batch * epochs
    peak, warmup = lr * batch / LR_BATCH, WARMUP * total
    suspects = {
        "The rate does not grow with the batch there: lr belongs to 512 images.": _rate(*given, tied=0),
        "The rate must grow with the batch, not shrink.": _rate(*given, tied=-1),
        "The square root of the batch belongs to another rule; here the rate grows in proportion.": _rate(
            *given, tied=0.5
        ),
        "The last batch of an epoch is left out: images // batch steps.": _rate(
            *given, steps=-(-images // batch) * epochs
        ),
        "That is one epoch's schedule: the cosine runs over all epochs.": _rate(
            step % (images // batch), images, batch, 1, lr
        ),
        "That is a cosine over all steps: it begins where the warm-up ends; before, the rate rises in a line.": peak
        / 2
        * (1 + math.cos(math.pi * step / total)),
        "That is the largest rate, at every step.": peak,
        "Half a cosine ends at zero; yours goes on.": peak * math.cos(math.pi * (step - warmup) / (total - warmup)),
    }
    wrong = {name: value for name, value in suspects.items() if not math.isclose(value, want, rel_tol=1e-6)}
    answer.expect(want, *given, suspects=wrong, rtol=1e-9, atol=1e-15)


def _plan(rng: Rng) -> tuple[int, int, int, float]:
    """images, batch, epochs, lr; steps that ten divides, so that nobody has to round the warm-up."""
    batch = int(rng.choice([32, 64, 128, 256, 1024]))
    images = batch * 10 * int(rng.integers(2, 12))
    return images, batch, int(rng.integers(2, 20)), float(rng.uniform(1e-4, 1e-2))


@check_rate_at.point(
    "the largest rate grows with the global batch", hint="At the end of the warm-up the rate is lr * batch / 512."
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        images, batch, epochs, lr = _plan(rng)
        _looks(answer, images // batch * epochs // 10, images, batch, epochs, lr)


@check_rate_at.point("warm-up: a tenth of all steps, in a straight line from zero", hint="peak * step / warmup.")
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        images, batch, epochs, lr = _plan(rng)
        warmup = images // batch * epochs // 10
        _looks(answer, int(rng.integers(1, max(2, warmup))), images, batch, epochs, lr)


@check_rate_at.point(
    "then half a cosine, down to zero at the last step of all epochs",
    hint="peak / 2 * (1 + cos(pi * done)), with done from 0 at the end of the warm-up to 1 at the end.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        images, batch, epochs, lr = _plan(rng)
        steps = images // batch * epochs
        _looks(answer, int(rng.integers(steps // 5, steps)), images, batch, epochs, lr)


@check_rate_at.point("a last batch that is not full is no step", hint="images // batch steps in an epoch.")
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(3):
        images, batch, epochs, lr = _plan(rng)
        steps = images // batch * epochs
        _looks(answer, int(rng.integers(steps // 5, steps)), images + batch // 2, batch, epochs, lr)

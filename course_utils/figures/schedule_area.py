"""The answers of the figure ``schedule_area``: how far the learning rate of a run can move a weight.

Adam's step is at most about the rate, so a weight moves by at most the area under the schedule. For a warm-up and half
a cosine the area is half of the largest rate times the steps, however long the warm-up is.
"""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.training import warmup_cosine
from course_utils.vision.from_scratch.config import FromScratch

IMAGES = 50_000  # of CIFAR-10
BATCH = 512  # that the rate is given for
FINE_TUNING = 1e-5  # a constant rate, to compare with
STD = 0.02  # what weights begin with
RANKS, PER_RANK, EPOCHS = (1, 2, 4, 8, 16, 32), (16, 32, 64, 128), (1, 5, 20, 100, 300)
RATES, WARMUPS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3), (0.0, 0.05, 0.1, 0.2)
POINTS = 80


def answers() -> dict[str, Any]:
    """``runs``: global batch, steps an epoch, steps, steps of warm-up, and the area under the constant rate.
    ``areas``: the largest rate, the area, and the area in units of what weights begin with. ``shapes``: the rate along
    the run, in units of the largest."""
    sizes = {"ranks": RANKS, "per_rank": PER_RANK, "epochs": EPOCHS}
    return {
        "lr_batch": BATCH,
        "fine_tuning": FINE_TUNING,
        "runs": tabulate(_run, **sizes, warmup=WARMUPS),
        "areas": tabulate(_area, **sizes, lr=RATES, tied=(False, True)),
        "shapes": tabulate(_shape, warmup=WARMUPS),
    }


def _run(ranks: int, per_rank: int, epochs: int, warmup: float) -> dict[str, float]:
    batch = ranks * per_rank
    per_epoch = IMAGES // batch
    steps = per_epoch * epochs
    rising = max(1, round(warmup * steps)) if warmup else 0
    return {"batch": batch, "per_epoch": per_epoch, "steps": steps, "rising": rising, "plain": steps * FINE_TUNING}


def _area(ranks: int, per_rank: int, epochs: int, lr: float, tied: bool) -> dict[str, float]:
    batch = ranks * per_rank
    peak = FromScratch.model_validate({"batch_size": batch, "lr": lr, "lr_batch": BATCH if tied else batch}).rate
    area = peak * (IMAGES // batch * epochs) / 2
    return {"peak": peak, "area": area, "times": area / STD}


def _shape(warmup: float) -> dict[str, list[float]]:
    rate = warmup_cosine(steps=POINTS, warmup=round(warmup * POINTS))
    return {"rates": [round(rate(step), 4) for step in range(POINTS + 1)]}

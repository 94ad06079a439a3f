"""The answers of the figure ``best_of``: how much too high the best of several equally good models seems to be.

A measured accuracy is the true one, p, plus noise: a standard error of sqrt(p (1 - p) / n) on n images. The best of k
measured accuracies is too high by that error times the mean of the largest of k standard normal numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from course_utils.figures.interactive import tabulate

CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
IMAGES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
ACCURACIES = (50, 60, 70, 75, 80, 85, 90, 95, 98, 99)  # per cent


def answers() -> dict[str, Any]:
    """``flattery``: the standard error and, for each number of ``candidates``, the points too high, in per cent."""
    largest = [largest_of_normals(k) for k in CANDIDATES]

    def flattery(images: int, accuracy: float) -> dict[str, Any]:
        error = 100 * math.sqrt(accuracy / 100 * (1 - accuracy / 100) / images)
        return {"error": error, "points": [error * mean for mean in largest]}

    return {"candidates": CANDIDATES, "flattery": tabulate(flattery, images=IMAGES, accuracy=ACCURACIES)}


def largest_of_normals(count: int) -> float:
    """The mean of the largest of ``count`` independent standard normal numbers: 0 for one, 1/sqrt(pi) for two."""
    x = torch.linspace(-9, 9, 9001, dtype=torch.float64)
    below = torch.special.ndtr(x) ** count  # the probability that all are below x
    return float(((x[1:] + x[:-1]) / 2 * below.diff()).sum())

"""Small tensors on one thread: several would spend their time waiting for each other, on a busy machine most."""

from __future__ import annotations

import functools

import numpy as np
import torch

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Look


def one_thread(look: Look) -> Look:
    """Decorator for a point: it, and the learner's function with it, runs on one thread of torch."""

    @functools.wraps(look)
    def alone(answer: Answer, rng: np.random.Generator) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            look(answer, rng)
        finally:
            torch.set_num_threads(before)

    return alone

"""11.3: the memory of a step with LoRA, before it runs."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Shape = tuple[int, int]

check_step_bytes = Check("adapters_and_lora.3", "step_bytes", parameters=("shapes", "tuned", "rank", "bits"))


def _bytes(shapes: list[Shape], tuned: list[int], rank: int, bits: float) -> tuple[float, int]:
    """Bytes of the frozen weights, and how many numbers train."""
    frozen = sum(outputs * inputs for outputs, inputs in shapes) * bits / 8
    return frozen, rank * sum(sum(shapes[i]) for i in tuned)


def _holds(answer: Answer, shapes: list[Shape], tuned: list[int], rank: int, bits: float) -> None:
    frozen, trained = _bytes(shapes, tuned, rank, bits)
    everywhere = rank * sum(sum(shape) for shape in shapes)
    all_numbers = sum(outputs * inputs for outputs, inputs in shapes)
    suspects = {
        "The frozen weights are missing: they get no gradient, but they are there.": 16.0 * trained,
        "Only the frozen weights are counted. A and B need 4 bytes, their gradients 4, and Adam's moments 8.": frozen,
        "A and B themselves are missing, or their gradients.": frozen + 12.0 * trained,
        "Adam keeps two moments for each number that trains, 4 bytes each.": frozen + 8.0 * trained,
        "A frozen weight has no gradient and no moments.": frozen + 12.0 * all_numbers + 16.0 * trained,
        "bits are bits: divide by 8.": 8 * frozen + 16.0 * trained,
        "This puts an update at every matrix, and not at those in tuned alone.": frozen + 16.0 * everywhere,
        "A and B are stored in float32, whatever the bits of the base.": frozen + (bits / 8 + 12) * trained,
        "The base's bits are not used: this stores it in float32.": 4.0 * all_numbers + 16.0 * trained,
    }
    want = frozen + 16.0 * trained
    kept = {sentence: value for sentence, value in suspects.items() if abs(value - want) > 1e-6 * max(want, 1.0)}
    answer.expect(want, shapes, tuned, rank, bits, suspects=kept, rtol=1e-9, atol=1e-6)


def _shapes(rng: Rng, count: int) -> list[Shape]:
    return [(int(rng.integers(3, 90)), int(rng.integers(3, 90))) for _ in range(count)]


@check_step_bytes.point(
    "nothing tuned: the weights alone, at their number of bits",
    hint="out * in numbers for each shape, times bits / 8.",
)
def _(answer: Answer, rng: Rng) -> None:
    _holds(answer, _shapes(rng, 3), [], 8, 32)
    _holds(answer, _shapes(rng, 2), [], 4, 4.5)


@check_step_bytes.point(
    "one matrix with an update, the base in float32",
    hint="r (in + out) numbers that train, 4 bytes each for themselves, 4 for gradients, 8 for Adam's two moments.",
)
def _(answer: Answer, rng: Rng) -> None:
    _holds(answer, [(768, 768)], [0], 8, 32)
    _holds(answer, _shapes(rng, 1), [0], int(rng.integers(1, 9)), 32)


@check_step_bytes.point(
    "some of several matrices, none of them square",
    hint="Only the positions in tuned have A and B; all matrices have frozen weights.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(3):
        _holds(answer, _shapes(rng, 5), [0, 3], int(rng.integers(1, 9)), 32)


@check_step_bytes.point(
    "a base of few bits: A and B stay in float32",
    hint="bits says how the base is stored, and nothing else.",
)
def _(answer: Answer, rng: Rng) -> None:
    for bits in (4.25, 4.5, 8):
        _holds(answer, _shapes(rng, 4), [1, 2], int(rng.integers(2, 9)), bits)

"""01.1: how many sequences fit into a GPU."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Case = tuple[int, int, int, int, int, int, int]

check_largest_batch = Check(
    "memory_and_time.1",
    "largest_batch",
    parameters=("memory", "parameters", "bytes_each", "layers", "width", "heads", "length"),
)


def _sequence(layers: int, width: int, heads: int, length: int) -> int:
    """Bytes of one sequence in all layers."""
    return layers * (34 * length * width + 5 * heads * length**2)


def _right(memory: int, parameters: int, bytes_each: int, *sizes: int) -> int:
    return max(0, (memory - bytes_each * parameters) // _sequence(*sizes))


def _mistakes(case: Case) -> dict[str, float]:
    memory, parameters, each, layers, width, heads, length = case
    free, right = memory - each * parameters, _right(*case)
    scores = 5 * heads * length**2 * layers
    if right == 0:
        return {
            "That is a negative number of sequences: when the states alone do not fit, the answer is 0.":
                free // _sequence(*case[3:]),
            "Not one sequence fits here: the answer is 0, not 1.": 1,
        }  # fmt: skip
    mistakes = {
        "The model states are left out: they take bytes_each times parameters before the first sequence.":
            memory // _sequence(*case[3:]),
        "bytes_each is not always 16: take it from the argument.": (memory - 16 * parameters) // _sequence(*case[3:]),
        "Only the weights are taken off here, 2 bytes each. Take off all model states.":
            (memory - 2 * parameters) // _sequence(*case[3:]),
        "The scores are left out here: 5 a s^2 bytes a layer, beside the 34 s h.":
            free // (34 * length * width * layers),
        "Only the scores are counted here; 34 s h bytes a layer are missing.": free // scores,
        "That is the room for one layer. Every layer keeps its activations.": free // (_sequence(*case[3:]) // layers),
        "A part of a sequence does not train: round down.": free / _sequence(*case[3:]),
        "That is one sequence too many: round down, not up.": right + 1,
    }  # fmt: skip
    return {sentence: value for sentence, value in mistakes.items() if value != right}


def _case(
    rng: Rng, *, sequences: int, each: int = 16, length: int | None = None, spare: float | None = None, heads: int = 2
) -> Case:
    """A model with at least so many heads, and memory for so many sequences and a part of another."""
    heads = int(rng.integers(heads, 40))
    width, layers = heads * int(rng.integers(3, 12)) * 8, int(rng.integers(2, 60))
    length = length or int(rng.integers(100, 3000))
    parameters = layers * (12 * width**2 + 13 * width)
    more = rng.uniform(0.1, 0.9) if spare is None else spare
    one = _sequence(layers, width, heads, length)
    room = sequences * one + round(more * one)  # exact to the byte
    return each * parameters + room, parameters, each, layers, width, heads, length


def _holds(answer: Answer, case: Case) -> None:
    answer.expect(_right(*case), *case, suspects=_mistakes(case))


@check_largest_batch.point(
    "model states first, then 34sh + 5as^2 bytes for each sequence and layer",
    hint="free = memory - bytes_each * parameters; one sequence takes layers * (34 s h + 5 a s^2) bytes.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(4):
        _holds(answer, _case(rng, sequences=int(rng.integers(2, 200))))


@check_largest_batch.point(
    "long sequences: the scores take the most",
    hint="The scores grow with the square of the length: 5 a s^2, not 5 a s.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(4):
        _holds(answer, _case(rng, sequences=int(rng.integers(2, 40)), length=int(rng.integers(20_000, 60_000))))


@check_largest_batch.point(
    "other ledgers: 18, 20 or 8 bytes a parameter",
    hint="bytes_each is an argument.",
)
def _(answer: Answer, rng: Rng) -> None:
    for each in (18, 20, 8):
        # Wide models, short texts: two bytes more for each parameter are several sequences.
        _holds(answer, _case(rng, sequences=int(rng.integers(50, 100)), each=each, heads=32, length=128))


@check_largest_batch.point(
    "nothing fits: 0, and never less",
    hint="There are two cases: the states do not fit, or they fit and no sequence does. max(0, ...) serves both.",
)
def _(answer: Answer, rng: Rng) -> None:
    _holds(answer, _case(rng, sequences=0))
    _holds(answer, _case(rng, sequences=-int(rng.integers(2, 50))))
    _holds(answer, _case(rng, sequences=int(rng.integers(2, 50))))


@check_largest_batch.point(
    "to the byte: exactly full is fits, a byte less is not",
    hint="Stay with whole numbers: // instead of / and int(). A float has 53 bits, and these counts have more.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _repeat in range(3):
        memory, *rest = _case(rng, sequences=int(rng.integers(10**6, 10**8)), spare=0.0)
        for less in (0, 1):
            _holds(answer, (memory - less, *rest))  # type: ignore[arg-type]

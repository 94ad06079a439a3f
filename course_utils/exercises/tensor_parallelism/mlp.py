"""04.1: an MLP cut for t ranks, so that the sum of what they give is what the whole gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]
Weights = tuple[Array, Array, Array, Array]  # A [in, hidden], b [hidden], B [hidden, out], c [out]

check_cut_mlp = Check("tensor_parallelism.1", "cut_mlp", parameters=("A", "b", "B", "c", "ranks"))

_erf = np.vectorize(math.erf, otypes=[np.float64])
NAMES = ("A_r", "b_r", "B_r", "c_r")


def _gelu(x: Array) -> Array:
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def _mlp(x: Array, A: Array, b: Array, B: Array, c: Array) -> Array:
    return _gelu(x @ A + b) @ B + c


def _random(rng: Rng, inputs: int, hidden: int, outputs: int) -> Weights:
    return (
        rng.normal(size=(inputs, hidden)),
        rng.normal(size=hidden),
        rng.normal(size=(hidden, outputs)),
        rng.normal(size=outputs),
    )


def _parts(answer: Answer, weights: Weights, ranks: int) -> list[Weights]:
    """What the learner returns, if it has the form of parts."""
    A, _, B, _ = weights
    given = ("given", f"A {A.shape}, B {B.shape}, ranks {ranks}")
    parts = answer(*weights, ranks)
    if not isinstance(parts, list | tuple) or len(parts) != ranks or any(np.shape(p) == () for p in _lengths(parts)):
        raise NotOk(
            given,
            ("expected", f"a list of {ranks} tuples (A_r, b_r, B_r, c_r)"),
            ("got", type(parts).__name__ + (f" of {len(parts)}" if hasattr(parts, "__len__") else "")),
            hint="One tuple of four arrays for each rank.",
        )
    each = A.shape[1] // ranks
    wanted = [(A.shape[0], each), (each,), (each, B.shape[1]), (B.shape[1],)]
    for rank, part in enumerate(parts):
        shapes = [np.shape(array) for array in part]
        if shapes != wanted:
            name = next(n for n, s, w in zip(NAMES, shapes, wanted, strict=True) if s != w)
            raise NotOk(
                given,
                ("expected", f"rank {rank}: " + ", ".join(f"{n} {w}" for n, w in zip(NAMES, wanted, strict=True))),
                ("got", f"rank {rank}: " + ", ".join(f"{n} {s}" for n, s in zip(NAMES, shapes, strict=True))),
                hint=_of_shape(name, shapes[NAMES.index(name)], weights),
            )
    return [(np.asarray(a), np.asarray(b), np.asarray(d), np.asarray(c)) for a, b, d, c in parts]


def _lengths(parts: Any) -> list[Any]:
    """Something without a shape stands for each entry that is no tuple of four."""
    return [[0] if isinstance(part, list | tuple) and len(part) == 4 else 0 for part in parts]


def _of_shape(name: str, shape: tuple[int, ...], weights: Weights) -> str:
    whole = weights[NAMES.index(name)].shape
    if shape == whole:
        return f"{name} is the whole array: nothing was shared out."
    return {
        "A_r": "A is cut by columns: a rank gets some hidden units whole, so that GELU can act on them at once.",
        "b_r": "b belongs to the hidden units, and is cut as they are.",
        "B_r": "B is cut by rows: those that the rank's own hidden units are multiplied by.",
        "c_r": "c belongs to the outputs, which every rank has all of (as unfinished sums).",
    }[name]


def _looks(answer: Answer, rng: Rng, weights: Weights, ranks: int) -> None:
    parts, x = _parts(answer, weights, ranks), rng.normal(size=(3, len(weights[0])))
    want, got = _mlp(x, *weights), np.sum([_mlp(x, *part) for part in parts], axis=0)
    if not np.allclose(got, want, rtol=1e-9, atol=1e-9):
        worst = np.unravel_index(np.abs(got - want).argmax(), want.shape)
        raise NotOk(
            ("given", f"A {weights[0].shape}, B {weights[2].shape}, ranks {ranks}, three random inputs"),
            ("expected", f"a sum over ranks of {want[worst]:.6g}"),
            ("got", f"{got[worst]:.6g}"),
            hint=_mistake(parts, weights, got - want),
        )


def _mistake(parts: list[Weights], weights: Weights, off: Array) -> str:
    ranks, (A, b, B, c) = len(parts), weights
    for times, sentence in (
        (ranks - 1, f"The output bias c counts {ranks} times. It may count once in the sum over all ranks."),
        (-1, "The output bias c is missing from the sum."),
    ):
        if np.abs(c).max() > 0 and np.allclose(off, times * c, rtol=1e-6, atol=1e-8):
            return sentence
    together = [np.concatenate([part[i] for part in parts], axis=axis) for i, axis in ((0, 1), (1, 0), (2, 0))]
    if not np.allclose(np.sort(together[0].ravel()), np.sort(A.ravel())):
        return "Put side by side, the A_r are not A: some columns are missing, or there twice."
    if np.allclose(together[1] * ranks, b) and np.abs(b).max() > 0:
        return "b was divided by the number of ranks. A hidden unit is on one rank only, and needs its whole bias."
    if not np.allclose(np.sort(together[2].ravel()), np.sort(B.ravel())):
        return "Put below each other, the B_r are not B."
    return "All is there, but does not belong together: hidden unit j needs column j of A, b[j] and row j of B."


@check_cut_mlp.point(
    "without biases, the ranks' results add up to the whole",
    hint="Columns of A, and the rows of B with the same numbers.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks, hidden in ((2, 8), (3, 15)):
        A, b, B, c = _random(rng, int(rng.integers(2, 6)), hidden, int(rng.integers(2, 6)))
        _looks(answer, rng, (A, 0 * b, B, 0 * c), ranks)


@check_cut_mlp.point(
    "the bias of the hidden units goes with them",
    hint="GELU(xA + b) needs b before it, on the rank that has the unit.",
)
def _(answer: Answer, rng: Rng) -> None:
    A, b, B, c = _random(rng, 5, 12, 3)
    _looks(answer, rng, (A, 3 * b, B, 0 * c), 4)


@check_cut_mlp.point(
    "the bias of the outputs counts once in the sum, not once on every rank",
    hint="Give it to one rank and zeros to the others, or everyone its share.",
)
def _(answer: Answer, rng: Rng) -> None:
    A, b, B, c = _random(rng, 4, 10, 7)
    _looks(answer, rng, (A, b, B, 1 + 100 * np.abs(c)), 5)


@check_cut_mlp.point(
    "one rank alone has everything, and as many ranks as hidden units have one each",
    hint="Nothing is special about one rank, or about parts that are one column wide.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, _random(rng, 3, 7, 2), 1)
    _looks(answer, rng, _random(rng, 3, 7, 2), 7)


@check_cut_mlp.point(
    "hidden units that the ranks cannot share equally are refused with a ValueError",
    hint="Look at A.shape[1] % ranks first, and raise ValueError with a sentence.",
)
def _(answer: Answer, rng: Rng) -> None:
    given = ("given", "A (3, 10), B (10, 2), ranks 4")

    def call(*weights: Any) -> str:
        try:
            answer.function(*weights)
        except NotImplementedError:
            raise
        except ValueError as error:
            return str(error)
        return ""

    _looks(answer, rng, _random(rng, 3, 8, 2), 4)  # what can be shared must be
    said = Answer(call, answer.name)(*_random(rng, 3, 10, 2), 4)
    if not said:
        raise NotOk(given, ("expected", "ValueError"), ("got", "a result"))
    if "10" not in said or "4" not in said:
        hint = "Name both numbers in the message: whoever reads it wants to know what to change."
        raise NotOk(given, ("expected", "a sentence with 10 and 4 in it"), ("got", f"ValueError: {said}"), hint=hint)

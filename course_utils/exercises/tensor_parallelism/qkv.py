"""04.2: queries, keys and values in one matrix, cut by heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]

check_cut_qkv = Check("tensor_parallelism.2", "cut_qkv", parameters=("qkv", "heads", "ranks"))


def _right(qkv: Array, ranks: int) -> list[Array]:
    kinds = [np.split(kind, ranks, axis=1) for kind in np.split(qkv, 3, axis=1)]
    return [np.concatenate([kind[rank] for kind in kinds], axis=1) for rank in range(ranks)]


def _attention(x: Array, qkv: Array, heads: int) -> Array:
    """Attention of ``heads`` heads, before the output projection: [N, D] and [D, 3 w] to [N, w]."""
    q, k, v = (kind.reshape(len(x), heads, -1).transpose(1, 0, 2) for kind in np.split(x @ qkv, 3, axis=1))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])  # [heads, N, N]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)


def _mistakes(qkv: Array, heads: int, ranks: int) -> dict[str, list[Array]]:
    """The sentence that explains a mistake -> the parts it gives."""
    width = len(qkv)
    by_head = qkv.reshape(width, 3, heads, -1)  # [D, 3, heads, d]
    own = [by_head.reshape(width, 3, ranks, heads // ranks, -1)[:, :, rank] for rank in range(ranks)]  # [D, 3, a/t, d]
    return {
        "An even cut: the first rank has queries and no values. Take q, k and v apart first.": np.split(
            qkv, ranks, axis=1
        ),
        "The right heads, but sorted head by head (q, k, v of one, then of the next). Keep the order of the whole: all "
        "queries, then all keys, then all values.": [part.transpose(0, 2, 1, 3).reshape(width, -1) for part in own],
        "The ranks have their heads in turn (0, t, 2t, ...). Give each rank neighbouring heads, so that results can be "
        "put side by side.": [by_head[:, :, rank::ranks].reshape(width, -1) for rank in range(ranks)],
        "The ranks are in reverse order.": _right(qkv, ranks)[::-1],
        "Queries and keys have changed places.": [
            np.concatenate([part[:, 1], part[:, 0], part[:, 2]], axis=1).reshape(width, -1)
            for part in (p.reshape(width, 3, -1) for p in own)
        ],
    }


def _looks(answer: Answer, rng: Rng, heads: int, head_width: int, ranks: int) -> None:
    width = heads * head_width
    qkv, x = rng.normal(size=(width, 3 * width)) / np.sqrt(width), rng.normal(size=(4, width))
    given = ("given", f"qkv {qkv.shape}, heads {heads}, ranks {ranks}")
    got = answer(qkv, heads, ranks)
    if not isinstance(got, list | tuple) or len(got) != ranks:
        what = type(got).__name__ + (f" of {len(got)}" if hasattr(got, "__len__") else "")
        raise NotOk(given, ("expected", f"a list of {ranks} arrays"), ("got", what), hint="One array for each rank.")
    shapes = [np.shape(part) for part in got]
    if shapes != [(width, 3 * width // ranks)] * ranks:
        hint = "Inputs stay whole: cut columns, not rows."
        if shapes[0] == qkv.shape:
            hint = "That is the whole matrix on every rank: nothing was shared out."
        raise NotOk(given, ("expected", f"shapes {(width, 3 * width // ranks)}"), ("got", f"{shapes[0]}"), hint=hint)
    whole = _attention(x, qkv, heads)
    parts = [_attention(x, np.asarray(part), heads // ranks) for part in got]
    if not np.allclose(np.concatenate(parts, axis=1), whole, rtol=1e-9, atol=1e-9):
        same = (s for s, p in _mistakes(qkv, heads, ranks).items() if all(map(np.array_equal, p, got)))
        error = np.abs(np.concatenate(parts, axis=1) - whole).max()
        raise NotOk(
            given,
            ("expected", "attention of the parts, side by side, equal to that of the whole"),
            ("got", f"a difference of {error:.2g}"),
            hint=next(same, ""),
        )


@check_cut_qkv.point(
    "two heads a rank: attention of the parts, side by side, is attention of the whole",
    hint="Which columns of qkv are the keys of head 3?",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, 4, 3, 2)
    _looks(answer, rng, 6, int(rng.integers(2, 6)), 3)


@check_cut_qkv.point("one head a rank", hint="A part is then D / heads queries, as many keys, as many values.")
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, 5, 2, 5)


@check_cut_qkv.point("many heads a rank, of odd width", hint="The width of a head is D / heads, whatever the ranks.")
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, 12, 3, 2)
    _looks(answer, rng, 9, 5, 3)


@check_cut_qkv.point(
    "heads that the ranks cannot share equally are refused with a ValueError",
    hint="Look at heads % ranks, not at the width: 12 columns divide by 3 ranks, 4 heads do not.",
)
def _(answer: Answer, rng: Rng) -> None:
    def call(qkv: Array, heads: int, ranks: int) -> str:
        try:
            answer.function(qkv, heads, ranks)
        except ValueError as error:
            return f"refused: {error}"
        return "accepted"

    _looks(answer, rng, 6, 2, 3)  # what can be shared must be
    said = Answer(call, answer.name)(rng.normal(size=(12, 36)), 4, 3)
    if said == "accepted":
        raise NotOk(("given", "qkv (12, 36), heads 4, ranks 3"), ("expected", "ValueError"), ("got", "a result"))

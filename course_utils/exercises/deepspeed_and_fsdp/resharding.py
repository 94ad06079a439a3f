"""09.3: cut a sharded vector anew, for another number of ranks."""

from __future__ import annotations

import math

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = np.ndarray

check_reshard = Check("deepspeed_and_fsdp.3", "reshard", parameters=("shards", "length", "ranks"))


def _cut(flat: Array, ranks: int, fill: float = 0.0) -> Array:
    """[length] -> [ranks, width], padded at the end."""
    width = math.ceil(len(flat) / ranks)
    padded = np.full(ranks * width, fill, flat.dtype)
    padded[: len(flat)] = flat
    return padded.reshape(ranks, width)


def _expect(answer: Answer, rng: Rng, length: int, before: int, after: int, fill: float = 0.0) -> None:
    flat = rng.normal(size=length).astype(np.float32)
    shards = _cut(flat, before, fill)
    want = _cut(flat, after)
    suspects = {
        "Every rank got the whole vector, or its beginning: that is a replica, not a shard.": np.broadcast_to(
            np.resize(flat, want.shape[1]), want.shape
        ),
        "The numbers were dealt out like cards. A shard is a stretch: rank 0 has the first ones.": _cut(flat, after)
        .reshape(want.shape[1], after)
        .T,
    }
    padded = shards.reshape(-1)
    if len(padded) != length:
        kept = np.zeros(want.size, np.float32)
        kept[: min(want.size, len(padded))] = padded[: want.size]
        suspects["The old padding came along. It belongs to the old cut: drop what lies behind length."] = kept.reshape(
            want.shape
        )
    answer.expect(want, shards, length, after, suspects={k: v for k, v in suspects.items() if after > 1 or "old" in k})


@check_reshard.point(
    "to fewer and to more ranks, where everything divides",
    hint="Put the shards one behind the other, then cut the whole into ranks stretches of equal length.",
)
def _(answer: Answer, rng: Rng) -> None:
    for before, after in ((4, 2), (2, 4), (3, 6), (6, 1), (1, 6)):
        _expect(answer, rng, 12 * int(rng.integers(2, 9)), before, after)


@check_reshard.point(
    "the new shards have equal lengths, the last padded with zeros",
    hint="width = ceil(length / ranks): np.pad the end with zeros before you cut.",
)
def _(answer: Answer, rng: Rng) -> None:
    for before, after in ((2, 3), (1, 4), (4, 7)):
        _expect(answer, rng, before * (after * int(rng.integers(3, 9)) + 1), before, after)


@check_reshard.point(
    "the old padding is dropped",
    hint="Only the first `length` numbers of the whole are the model's; what follows is the old cut's padding.",
)
def _(answer: Answer, rng: Rng) -> None:
    for before, after in ((4, 2), (4, 3), (5, 1), (7, 5)):
        _expect(answer, rng, before * int(rng.integers(3, 9)) + 1, before, after, fill=7.0)


@check_reshard.point(
    "any length, any number of ranks",
    hint="Try a vector shorter than the number of ranks: some shards then hold nothing but padding.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(12):
        before, after = (int(n) for n in rng.integers(1, 9, size=2))
        _expect(answer, rng, int(rng.integers(1, 60)), before, after, fill=-3.0)
    _expect(answer, rng, 3, 2, 8, fill=-3.0)

"""05.3: the bytes that leave the machines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.hybrid.grid import Grid

Rng = np.random.Generator
AXES = ("data", "pipeline", "tensor")

check_slow_bytes = Check("hybrid_parallelism.3", "slow_bytes", parameters=("groups", "sent", "per_node"))


def _edges(group: list[int]) -> list[tuple[int, int]]:
    """Who sends to whom in a ring."""
    return [(a, b) for a, b in zip(group, group[1:] + group[:1], strict=True) if a != b]


def _count(groups: list[list[int]], per_node: int) -> int:
    """Messages of all rings' ranks that cross from one machine to another."""
    return sum(a // per_node != b // per_node for group in groups for a, b in _edges(group))


def _expect(answer: Answer, groups: list[list[int]], sent: int, per_node: int) -> None:
    open_ends = sum(a // per_node != b // per_node for g in groups for a, b in pairwise(g))
    crossing = [g for g in groups if len({rank // per_node for rank in g}) > 1]
    suspects = {
        "The ring is open here: the last rank of a group sends to the first.": open_ends,
        "Not every rank of a group that lies on two machines sends to the other machine; look at each "
        "rank and its next.": sum(map(len, crossing)),
        "One rank of each group was counted; every rank of the ring sends.": len(crossing),
        "All ranks were counted here. Those whose next is in the same machine send nothing between machines.": sum(
            len(g) for g in groups if len(g) > 1
        ),
        "rank % per_node is the place within a machine; the machine is rank // per_node.": sum(
            a % per_node != b % per_node for g in groups for a, b in _edges(g)
        ),
        "Machines were told by whether the numbers lie per_node apart. Ranks 3 and 4 are neighbours in number and, "
        "with four to a machine, on two machines.": sum(abs(a - b) >= per_node for g in groups for a, b in _edges(g)),
    }
    right = _count(groups, per_node)
    explained = {sentence: float(count * sent) for sentence, count in suspects.items() if count != right}
    answer.expect(float(right * sent), groups, sent, per_node, suspects=explained, rtol=1e-12)


def _groups(sizes: tuple[int, int, int], axis: str, order: tuple[str, ...] = AXES) -> list[list[int]]:
    return Grid(order=order, **dict(zip(AXES, sizes, strict=True))).groups(axis)


@check_slow_bytes.point(
    "a ring on two machines: only those count whose next is elsewhere",
    hint="In the ring 0, 1, 2, 3 with two ranks to a machine, 1 sends to 2 and 3 sends to 0: two of four.",
)
def _(answer: Answer, rng: Rng) -> None:
    sent = int(rng.integers(100, 999))
    for size, per_node in ((4, 2), (6, 3), (8, 2), (8, 4)):
        _expect(answer, [list(range(size))], sent, per_node)


@check_slow_bytes.point(
    "what stays in a machine costs nothing",
    hint="A ring within one machine adds nothing, whatever it sends; its neighbour that crosses adds its own bytes.",
)
def _(answer: Answer, rng: Rng) -> None:
    sent = int(rng.integers(100, 999))
    _expect(answer, [[0, 1, 2, 3], [4, 5, 6, 7]], sent, 6)
    _expect(answer, [[0, 1], [2, 3], [4, 5]], sent, 3)
    _expect(answer, [[0, 1, 2], [3, 4, 5], [6, 7, 8]], sent, 4)


@check_slow_bytes.point(
    "the machine of a rank is rank // per_node, for any number to a machine",
    hint="Ranks 3 and 4 are neighbours in number; with four to a machine they are on two machines.",
)
def _(answer: Answer, rng: Rng) -> None:
    sent = int(rng.integers(100, 999))
    for per_node in (1, 2, 3, 4, 5):
        _expect(answer, _groups((2, 3, 4), "pipeline"), sent, per_node)
        _expect(answer, _groups((2, 4, 3), "tensor"), sent, per_node)


@check_slow_bytes.point(
    "groups of one send nothing",
    hint="A rank that is alone in its group has nobody to send to, and is not its own next.",
)
def _(answer: Answer, rng: Rng) -> None:
    sent = int(rng.integers(100, 999))
    alone = [[rank] for rank in range(6)]
    _expect(answer, [*alone, [6, 9]], sent, 1)
    _expect(answer, [[0], [1, 2], [3]], sent, 2)


@check_slow_bytes.point(
    "eight to a machine, 384 ranks: three numberings",
    hint="Nothing here depends on which axis it is: groups are lists of ranks.",
)
def _(answer: Answer, rng: Rng) -> None:
    for order in (AXES, ("pipeline", "data", "tensor"), ("tensor", "pipeline", "data")):
        for axis in AXES:
            if _count(_groups((8, 12, 4), axis, order), 8):
                _expect(answer, _groups((8, 12, 4), axis, order), int(rng.integers(100, 999)), 8)

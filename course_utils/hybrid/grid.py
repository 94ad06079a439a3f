"""The rank grid of hybrid parallelism: world size = data x pipeline x tensor, and who is whose neighbour on which axis.

Nothing here starts a process: it is arithmetic on rank numbers. :class:`course_utils.hybrid.mesh.Mesh` makes the
process groups of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

AXES = ("data", "pipeline", "tensor")


class Coordinates(NamedTuple):
    """Where a rank stands: which replica, which stage, which slice of each layer. All count from 0."""

    data: int
    pipeline: int
    tensor: int


@dataclass(frozen=True)
class Grid:
    """Ranks in a box of ``data x pipeline x tensor``, numbered with the last axis of ``order`` running fastest.

    Args:
        data: replicas of the model; each reads its own part of the batch.
        pipeline: stages that a replica is cut into.
        tensor: slices that each layer of a stage is cut into.
        order: the axes from the outermost to the innermost. Neighbouring numbers share a machine, so the innermost
            axis should be the one that talks most: tensor. Megatron-LM counts ``("pipeline", "data", "tensor")``.

    Raises:
        ValueError: for a size below 1 or an order that is not one of the three axes each once.
    """

    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    order: tuple[str, ...] = AXES

    def __post_init__(self) -> None:
        for axis in AXES:
            if not isinstance(size := getattr(self, axis), int) or size < 1:
                raise ValueError(f"{axis}={size!r} is no number of ranks: choose a whole number of at least 1")
        if sorted(self.order) != sorted(AXES):
            raise ValueError(f"order {tuple(self.order)} must name each of {AXES} once, the outermost first")

    @property
    def ranks(self) -> int:
        """The world size: the product of the three."""
        return self.data * self.pipeline * self.tensor

    def __str__(self) -> str:
        return f"{self.data} x {self.pipeline} x {self.tensor}"

    def size(self, axis: str) -> int:
        """Ranks in each group of an axis."""
        if axis not in AXES:
            raise ValueError(f"axis {axis!r} does not exist: the axes are {', '.join(AXES)}")
        return int(getattr(self, axis))

    def stride(self, axis: str) -> int:
        """How far apart the numbers of two neighbours on an axis are."""
        inner = self.order[self.order.index(axis) + 1 :]
        return math.prod(self.size(other) for other in inner)

    def coordinates(self, rank: int) -> Coordinates:
        """Where a rank stands: its number, written in mixed radix."""
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is not in a grid of {self} ranks: they go from 0 to {self.ranks - 1}")
        return Coordinates(*(rank // self.stride(axis) % self.size(axis) for axis in AXES))

    def rank(self, coordinates: Sequence[int]) -> int:
        """The number of the rank at ``(data, pipeline, tensor)``."""
        for axis, place in zip(AXES, coordinates, strict=True):
            if not 0 <= place < self.size(axis):
                raise ValueError(f"{axis} {place} is not in a grid of {self}: it goes from 0 to {self.size(axis) - 1}")
        return sum(place * self.stride(axis) for axis, place in zip(AXES, coordinates, strict=True))

    def group(self, rank: int, axis: str) -> list[int]:
        """The ranks that differ from this one in nothing but their place on the axis; itself among them."""
        first = rank - self.coordinates(rank)[AXES.index(axis)] * self.stride(axis)
        return [first + place * self.stride(axis) for place in range(self.size(axis))]

    def groups(self, axis: str) -> list[list[int]]:
        """All groups of an axis; together they hold each rank once."""
        at = AXES.index(axis)
        return [self.group(rank, axis) for rank in range(self.ranks) if self.coordinates(rank)[at] == 0]

    def crosses(self, axis: str, per_node: int) -> bool:
        """Whether some group of the axis lies on more than one machine of ``per_node`` ranks."""
        return any(group[0] // per_node != group[-1] // per_node for group in self.groups(axis))


def factorisations(ranks: int, order: tuple[str, ...] = AXES) -> Iterator[Grid]:
    """Every grid of so many ranks; 8 ranks have 10 of them, 384 have 108."""
    for data in _divisors(ranks):
        for pipeline in _divisors(ranks // data):
            yield Grid(data, pipeline, ranks // data // pipeline, order)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]

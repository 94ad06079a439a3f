"""The rank grid of hybrid parallelism: world size = data x pipeline x tensor, and who is whose neighbour on which axis.

Nothing here starts a process: it is arithmetic on rank numbers. :class:`course_utils.hybrid.mesh.Mesh` makes the
process groups of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from course_utils.hybrid.axes import AXES, outermost_first


class Grid:
    """Ranks in a box such as ``Grid(data=8, pipeline=12, tensor=4)``, the last axis of ``order`` running fastest.

    Args:
        order: the axes from the outermost to the innermost; by default as in the table. Neighbouring numbers share a
            machine, so the innermost axis should be the one that talks most: tensor. Megatron-LM counts
            ``("pipeline", "data", "tensor")``.
        sizes: ranks on each axis; any axes of :data:`course_utils.hybrid.axes.AXES`.

    Attributes:
        sizes: by axis, as they are spoken: ``8 x 12 x 4``.

    Raises:
        ValueError: for an axis that does not exist, a size below 1, or an order that does not name each axis once.
    """

    def __init__(self, *, order: Sequence[str] | None = None, **sizes: int) -> None:
        self.sizes = {axis: sizes[axis] for axis in outermost_first(sizes)}
        self.order = tuple(self.sizes if order is None else order)
        for axis, size in self.sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{axis}={size!r} is no number of ranks: choose a whole number of at least 1")
        if sorted(self.order) != sorted(self.sizes):
            raise ValueError(f"order {self.order} must name each of {tuple(self.sizes)} once, the outermost first")

    @property
    def ranks(self) -> int:
        """The world size: the product of all sizes."""
        return math.prod(self.sizes.values())

    def __str__(self) -> str:
        return " x ".join(map(str, self.sizes.values()))

    def size(self, axis: str) -> int:
        """Ranks in each group of an axis; 1 for an axis that the grid lacks."""
        outermost_first([axis])  # names the axes if there is no such one
        return self.sizes.get(axis, 1)

    def stride(self, axis: str) -> int:
        """How far apart the numbers of two neighbours on an axis are."""
        inner = self.order[self.order.index(axis) + 1 :]
        return math.prod(self.size(other) for other in inner)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where a rank stands on each axis, from 0: its number, written in mixed radix."""
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is not in a grid of {self} ranks: they go from 0 to {self.ranks - 1}")
        return {axis: rank // self.stride(axis) % size for axis, size in self.sizes.items()}

    def rank(self, coordinates: Mapping[str, int]) -> int:
        """The number of the rank at these places."""
        for axis, size in self.sizes.items():
            if not 0 <= coordinates[axis] < size:
                raise ValueError(f"{axis} {coordinates[axis]} is not in a grid of {self}: it goes from 0 to {size - 1}")
        return sum(coordinates[axis] * self.stride(axis) for axis in self.sizes)

    def described(self, rank: int) -> str:
        """``"replica 1, stage 2, slice 1"``."""
        return ", ".join(f"{AXES[axis].place} {place}" for axis, place in self.coordinates(rank).items())

    def group(self, rank: int, axis: str) -> list[int]:
        """The ranks that differ from this one in nothing but their place on the axis; itself among them."""
        first = rank - self.coordinates(rank)[axis] * self.stride(axis)
        return [first + place * self.stride(axis) for place in range(self.size(axis))]

    def groups(self, axis: str) -> list[list[int]]:
        """All groups of an axis; together they hold each rank once."""
        return [self.group(rank, axis) for rank in range(self.ranks) if self.coordinates(rank)[axis] == 0]

    def crosses(self, axis: str, per_node: int) -> bool:
        """Whether some group of the axis lies on more than one machine of ``per_node`` ranks."""
        size, stride = self.size(axis), self.stride(axis)
        reach, block = (size - 1) * stride, size * stride  # of a group, and from one set of groups to the next
        firsts = (start + n for start in range(0, min(self.ranks, block * per_node), block) for n in range(stride))
        return reach > 0 and any(first // per_node != (first + reach) // per_node for first in firsts)


def factorisations(ranks: int, axes: Sequence[str] = ("data", "pipeline", "tensor")) -> Iterator[Grid]:
    """Every grid of so many ranks over these axes; 8 ranks have 10 of three axes, 384 have 108."""
    for sizes in _factors(ranks, len(axes)):
        yield Grid(order=None, **dict(zip(axes, sizes, strict=True)))


def _factors(number: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (number,)
        return
    for d in range(1, number + 1):
        if number % d == 0:
            yield from ((d, *rest) for rest in _factors(number // d, count - 1))

"""The rank grid as process groups: on every axis the ranks that talk to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from course_utils.hybrid.grid import Grid, factorisations
from course_utils.measure.ledger import Ledger
from course_utils.measure.operators import Call, ranks_label


class Mesh:
    """A grid of ranks, and this rank's group on each axis. Every rank of the world makes it.

    ::

        mesh = Mesh(data=2, pipeline=2, tensor=2)  # in each of eight ranks
        dist.all_reduce(gradient, group=mesh.group("data"))

    Args:
        order, sizes: as in :class:`course_utils.hybrid.grid.Grid`.

    Attributes:
        grid: the arithmetic of it.
        coordinates: where this rank stands on each axis, from 0.

    Raises:
        ValueError: if the sizes do not multiply out to the world size.
    """

    def __init__(self, *, order: Sequence[str] | None = None, **sizes: int) -> None:
        self.grid = Grid(order=order, **sizes)
        _check_world(self.grid, dist.get_world_size())
        self.coordinates = self.grid.coordinates(dist.get_rank())
        self._groups: dict[str, dist.ProcessGroup] = {}
        for axis in self.grid.sizes:
            for ranks in self.grid.groups(axis):
                # Every rank makes every group, its own or not, in the same order.
                group = dist.new_group(ranks)
                if isinstance(group, dist.ProcessGroup):  # this rank's own; for the others it is no group
                    self._groups[axis] = group

    def group(self, axis: str) -> dist.ProcessGroup:
        """The process group of the ranks that differ from this one on the axis alone."""
        if self.grid.size(axis) == 1 and axis not in self._groups:  # an axis that the grid lacks
            alone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
            assert isinstance(alone, dist.ProcessGroup)
            self._groups[axis] = alone
        return self._groups[axis]

    def place(self, axis: str) -> int:
        """Where this rank stands on the axis, from 0."""
        self.grid.size(axis)  # names the axes if there is no such one
        return self.coordinates.get(axis, 0)

    def axis_of(self, call: Call) -> str | None:
        """The axis that a call of this rank went along; None for calls of other groups, or of a group of one."""
        if call.operation in ("send", "recv"):
            source, target = (self.grid.coordinates(int(end)) for end in call.group.split("→"))
            differ = [axis for axis in source if source[axis] != target[axis]]
            return differ[0] if len(differ) == 1 else None
        labels = {
            ranks_label(self.grid.group(dist.get_rank(), axis)): axis
            for axis, size in self.grid.sizes.items()
            if size > 1
        }
        return labels.get(call.group)

    def sent(self, ledger: Ledger) -> dict[str, float]:
        """What a ledger counted, by axis: bytes that this rank sent on each."""
        sums = dict.fromkeys(self.grid.sizes, 0.0)
        for call in ledger.calls:
            if axis := self.axis_of(call):
                sums[axis] += call.wire
        return sums

    def __repr__(self) -> str:
        return f"Mesh({self.grid}; this rank: {self.grid.described(dist.get_rank())})"


def _check_world(grid: Grid, world: int) -> None:
    if grid.ranks != world:
        fits = min(factorisations(world, tuple(grid.sizes)), key=lambda other: _distance(grid, other))
        raise ValueError(
            f"{grid} = {grid.ranks} ranks, but {world} {'was' if world == 1 else 'were'} started: start {grid.ranks}, "
            f"or choose sizes whose product is {world}, such as {fits}"
        )


def _distance(grid: Grid, other: Grid) -> tuple[int, float]:
    """How many sizes differ, and then by how much: a suggestion should keep what it can."""
    sizes = [(grid.size(axis), other.size(axis)) for axis in grid.sizes]
    return sum(a != b for a, b in sizes), sum(max(a, b) / min(a, b) for a, b in sizes)

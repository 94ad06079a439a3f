"""How long a step of data parallelism takes: backward fills buckets, a link empties them, and both work at once.

The link carries one bucket at a time, in order, and takes no time from computing. That is the alpha-beta model of
:mod:`course_utils.measure.communication`, with the overlap of Li et al. 2020, arXiv:2006.15704.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from course_utils.measure.communication import Link, ring_all_reduce_time


class Step(NamedTuple):
    """One step, in seconds from its beginning."""

    computed: float  # end of backward
    buckets: list[tuple[float, float]]  # start and end of each all-reduce

    @property
    def end(self) -> float:
        """When computing and communication are both done."""
        return max([self.computed, *(end for _, end in self.buckets)])

    @property
    def exposed(self) -> float:
        """Seconds in which the rank only waits for the link."""
        return self.end - self.computed

    @property
    def efficiency(self) -> float:
        """Share of the step that is computing: the speed-up per rank when each keeps its batch (weak scaling)."""
        return self.computed / self.end


def replay(sizes: Sequence[float], full: Sequence[float], computed: float, ranks: int, link: Link) -> Step:
    """The step of a run whose bucket ``k``, of ``sizes[k]`` bytes, is full after ``full[k]`` seconds.

    Args:
        computed: seconds until the end of backward.
    """
    buckets: list[tuple[float, float]] = []
    free = 0.0
    for size, ready in zip(sizes, full, strict=True):
        start = max(free, ready)
        free = start + (ring_all_reduce_time(size, ranks, link) if ranks > 1 else 0.0)
        buckets.append((start, free))
    return Step(computed, buckets)


def step(gradient_bytes: float, buckets: int, forward: float, backward: float, ranks: int, link: Link) -> Step:
    """The step of a model whose gradients come evenly during backward, in so many equal buckets.

    Args:
        forward, backward: seconds that a rank computes.
        link: between neighbours in the ring.

    Raises:
        ValueError: for less than one bucket.
    """
    if buckets < 1:
        raise ValueError(f"{buckets} buckets: gradients need at least one")
    full = [forward + backward * (k + 1) / buckets for k in range(buckets)]
    return replay([gradient_bytes / buckets] * buckets, full, forward + backward, ranks, link)

"""The formulas of communication: known values, and simple simulations that count the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.measure.communication import (
    Link,
    all_gather_bytes,
    chain_bytes,
    reduce_scatter_bytes,
    ring_all_reduce_bytes,
    ring_all_reduce_time,
    root_all_reduce_bytes,
    root_all_reduce_time,
)

RANKS = st.integers(1, 600)
SIZES = st.floats(1, 1e12)


def test_ring_against_root_as_the_ranks_grow() -> None:
    ranks = [2, 4, 8, 16]
    assert [ring_all_reduce_bytes(1, n) for n in ranks] == [1, 1.5, 1.75, 1.875]
    assert [2 * root_all_reduce_bytes(1, n, 0) for n in ranks] == [2, 6, 14, 30]  # through the root's link, both ways


def test_fifteen_gigabytes_of_gradients() -> None:
    link = Link(latency=0, bandwidth=100e9)
    assert ring_all_reduce_time(15e9, 64, link) == pytest.approx(0.295, abs=5e-4)
    assert root_all_reduce_time(15e9, 64, link) == pytest.approx(18.9, abs=0.05)


@given(SIZES, RANKS)
def test_a_ring_is_its_two_halves_and_beats_no_lower_bound(size: float, ranks: int) -> None:
    ring = ring_all_reduce_bytes(size, ranks)
    assert ring == pytest.approx(reduce_scatter_bytes(size, ranks) + all_gather_bytes(size, ranks))
    assert ring < 2 * size
    assert ring == 0 if ranks == 1 else ring >= size * 0.999


@given(st.integers(1, 200))
def test_roots_and_chains_send_the_same_in_all(ranks: int) -> None:
    """Every one of N-1 other ranks hands its numbers over once, and of an all-reduce gets the sum once."""
    assert sum(root_all_reduce_bytes(1, ranks, rank) for rank in range(ranks)) == 2 * (ranks - 1)
    assert sum(chain_bytes(1, ranks, rank) for rank in range(ranks)) == ranks - 1


def steps_of_a_ring(chunk: float, ranks: int, link: Link) -> float:
    """Replay the ring: each step, all ranks send at once, then those of the first phase add."""
    clock = 0.0
    for step in range(2 * (ranks - 1)):
        clock += link.latency + chunk / link.bandwidth
        clock += chunk * link.reduction if step < ranks - 1 else 0
    return clock


@given(SIZES, st.integers(1, 64), st.floats(0, 1e-3), st.floats(1e6, 1e12), st.floats(0, 1e-9))
def test_times_are_those_of_a_replay(size: float, ranks: int, alpha: float, bandwidth: float, gamma: float) -> None:
    link = Link(alpha, bandwidth, gamma)
    assert ring_all_reduce_time(size, ranks, link) == pytest.approx(steps_of_a_ring(size / ranks, ranks, link))
    up, down = link.message(size) + size * gamma, link.message(size)
    assert root_all_reduce_time(size, ranks, link) == pytest.approx((ranks - 1) * (up + down))


def test_no_ranks_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 ranks: a group has at least one"):
        ring_all_reduce_bytes(1, 0)

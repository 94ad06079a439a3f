"""Our collectives give gloo's numbers, send the bytes of their formulas and not more, and never stand still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.data_parallel import Move, ring_all_reduce, root_all_reduce
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.measure import communication as estimate

WORLDS = [1, 2, 3, 4, 8]
LENGTHS = [0, 1, 5, 7, 64, 1001]  # fewer than ranks, odd, a multiple
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8]
ALL_REDUCES = {"ring": ring_all_reduce, "root": root_all_reduce}


def mine(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Whole numbers so small that every sum of them is exact in every dtype: equality needs no tolerance."""
    generator = torch.Generator().manual_seed(1000 * dist.get_rank() + length)
    return torch.randint(0, 9, (length,), generator=generator).to(dtype)


@pytest.mark.parametrize("ranks", WORLDS)
def test_equal_to_gloo(ranks: int) -> None:
    def run() -> int:
        compared = 0
        for dtype in DTYPES:
            for length in LENGTHS:
                x = mine(length, dtype)
                expected = x.clone()
                if length:
                    dist.all_reduce(expected)
                for name, all_reduce in ALL_REDUCES.items():
                    ours = x.clone()
                    assert all_reduce(ours) is ours
                    assert torch.equal(ours, expected), f"{name} {dtype} {length}"
                    compared += 1
        return compared

    assert launch(run, ranks) == [len(DTYPES) * len(LENGTHS) * len(ALL_REDUCES)] * ranks


def test_floats_shapes_and_layouts() -> None:
    def run() -> float:
        generator = torch.Generator().manual_seed(dist.get_rank())
        worst = 0.0
        for all_reduce in ALL_REDUCES.values():
            x = torch.randn(7, 5, 3, generator=generator)
            for view in (x, x.transpose(0, 2), x[:, ::2], x[0]):
                expected, before = view.clone(), view.data_ptr()
                dist.all_reduce(expected)
                assert all_reduce(view).data_ptr() == before
                worst = max(worst, (view - expected).abs().max().item())
        return worst

    # four addends of about 1 (after three in-place sums, about 16): their order differs, so the last bits may
    assert max(launch(run, 4)) < 64 * 4 * torch.finfo(torch.float32).eps


def test_in_a_subgroup_ranks_are_counted_within_it() -> None:
    def run() -> list[list[float]]:
        odd = dist.new_group([1, 3])
        even = dist.new_group([0, 2])
        group = odd if dist.get_rank() % 2 else even
        x = torch.full((5,), float(dist.get_rank()))
        return [all_reduce(x.clone(), group).tolist() for all_reduce in ALL_REDUCES.values()]

    assert launch(run, 4) == [[[2.0] * 5] * 2, [[4.0] * 5] * 2] * 2


def bytes_by_rank(function: Callable[..., Any], ranks: int, length: int) -> list[float]:
    """What each rank sends to all-reduce so many FP32 numbers, by the ledger; and the sum must be right."""

    def run() -> float:
        x = mine(length)
        expected = x.clone()
        dist.all_reduce(expected)
        with Ledger() as ledger:
            function(x)
        assert torch.equal(x, expected)
        return ledger.wire_bytes()

    return launch(run, ranks)


def assert_bandwidth_optimal(function: Callable[..., Any], ranks: int) -> None:
    """The property of a ring: no rank sends more than 2 (N-1)/N S."""
    length = 24 * ranks
    sent = bytes_by_rank(function, ranks, length)
    assert sent == [estimate.ring_all_reduce_bytes(4 * length, ranks)] * ranks, sent


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_bytes_are_those_of_the_formulas(ranks: int) -> None:
    assert_bandwidth_optimal(ring_all_reduce, ranks)
    size = 4 * 24
    assert bytes_by_rank(root_all_reduce, ranks, 24) == [
        estimate.root_all_reduce_bytes(size, ranks, rank) for rank in range(ranks)
    ]


def test_odd_lengths_send_all_but_two_chunks() -> None:
    length, ranks = 1003, 4
    chunks = [len(chunk) for chunk in torch.arange(length).tensor_split(ranks)]
    expected = [4 * (2 * length - chunks[rank] - chunks[(rank + 1) % ranks]) for rank in range(ranks)]
    sent = bytes_by_rank(ring_all_reduce, ranks, length)
    assert sent == expected
    assert sum(sent) == 2 * (ranks - 1) * 4 * length  # 2 (N-1) S over all ranks, however S is cut


def gather_and_add(x: Tensor) -> None:
    """A pretender: every rank collects everybody's whole tensor and adds."""
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    x.copy_(torch.stack(parts).sum(0))


@pytest.mark.parametrize("pretender", [gather_and_add, root_all_reduce])
def test_a_pretender_is_found_by_its_bytes(pretender: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=r"\d"):
        assert_bandwidth_optimal(pretender, 4)


def test_the_trace_tells_who_sends_which_chunk_when() -> None:
    def run() -> list[Move]:
        trace: list[Move] = []
        ring_all_reduce(torch.ones(7), trace=trace)
        return trace

    moves = [move for trace in launch(run, 3) for move in trace]
    assert len(moves) == 3 * 2 * 2
    holds = [[{rank} for _ in range(3)] for rank in range(3)]  # rank, chunk -> whose numbers are in its sum
    for phase in ("reduce", "gather"):
        for step in range(2):
            now = [move for move in moves if (move.phase, move.step) == (phase, step)]
            assert sorted(move.source for move in now) == [0, 1, 2]
            sent = {move: set(holds[move.source][move.chunk]) for move in now}  # all at the same moment
            for move, whose in sent.items():
                assert move.destination == (move.source + 1) % 3
                assert move.elements == [3, 2, 2][move.chunk]
                target = holds[move.destination]
                assert phase == "gather" or not (target[move.chunk] & whose), "a number would be added twice"
                target[move.chunk] = target[move.chunk] | whose if phase == "reduce" else whose
        if phase == "reduce":
            assert [holds[rank][rank] for rank in range(3)] == [{0, 1, 2}] * 3
    assert holds == [[{0, 1, 2}] * 3] * 3


def test_large_messages_do_not_deadlock() -> None:
    def run() -> float:
        x = torch.ones(6_000_000)  # 24 MB: far more than sockets buffer, so a blocking send would wait for ever
        return ring_all_reduce(x)[-1].item()

    assert launch(run, 3, timeout=30) == [3.0] * 3

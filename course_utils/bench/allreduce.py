"""The course's ring all-reduce out of send and receive, against gloo's all_reduce: 1, 16 and 64 MB on 2 and 4 ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.data_parallel import ring_all_reduce
from course_utils.launch import launch
from course_utils.measure.communication import ring_all_reduce_bytes

MEGABYTE = 10**6
SIZES = (1, 16, 64)  # MB
WORLDS = (2, 4)


def run(repetitions: int) -> Iterator[Result]:
    """Report the times; there is no goal to miss: gloo's is written in C++, ours to be read."""
    for ranks in WORLDS:
        for megabytes in SIZES:
            yield measure(ranks, megabytes * MEGABYTE, repetitions, f"allreduce_{megabytes}_mb_{ranks}_ranks")


def measure(ranks: int, size: int, repetitions: int, name: str) -> Result:
    """Time both on the same vector of ``size`` bytes, after showing that they give the same; rank 0's clock counts.

    Raises:
        RankFailed: if the results differ.
    """
    runs = launch(time_both, ranks, size // 4, repetitions, show=False, timeout=600)[0]
    wire = ring_all_reduce_bytes(size, ranks)
    return compare(name, runs, None, ranks=ranks, size_bytes=size, bytes_sent_per_rank=wire, torch=torch.__version__)


def time_both(numbers: int, repetitions: int) -> dict[str, list[Run]]:
    """What each rank does: all-reduce a vector of ones with both, in turn; a barrier keeps the ranks together."""
    mine = torch.full((numbers,), float(dist.get_rank()))
    contestants: dict[str, Callable[[Tensor], object]] = {"ours": ring_all_reduce, "gloo": dist.all_reduce}
    expected = sum(range(dist.get_world_size()))
    for name, all_reduce in contestants.items():
        result = mine.clone()
        all_reduce(result)
        if not bool((result == expected).all()):
            raise AssertionError(f"{name} does not add up: the sum of all ranks is {expected}")

    def once(all_reduce: Callable[[Tensor], object]) -> Callable[[], None]:
        vector = torch.ones(numbers)

        def step() -> None:
            vector.fill_(1.0)
            all_reduce(vector)
            dist.barrier()

        return step

    return interleave({name: once(function) for name, function in contestants.items()}, repetitions, warm_ups=2)

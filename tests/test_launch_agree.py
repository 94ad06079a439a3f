"""A failure of one rank is raised by all, with that rank's sentence; so nobody waits for the one that is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from course_utils.launch import agree, launch


class Unpicklable(ValueError):
    """As an error of a library may be: what is pickled here could not be read anywhere."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(f"{what} in line {line}")


def fail_on(
    ranks: tuple[int, ...], error: Callable[[], Exception], group: dist.ProcessGroup | None = None
) -> tuple[type, str]:
    def work() -> int:
        if dist.get_rank() in ranks:
            raise error()
        return dist.get_rank()

    try:
        return int, str(agree(work, group))
    except (OSError, ValueError) as raised:
        return type(raised), str(raised)


def all_cases() -> tuple[list[tuple[type, str]], float]:
    pair = dist.new_group([1, 2])
    found = [
        fail_on((), ValueError),
        fail_on((1,), lambda: FileNotFoundError("no disk")),
        fail_on((1, 2), lambda: ValueError(f"bad file {dist.get_rank()}")),
        fail_on((0, 1, 2), lambda: PermissionError("locked")),
        fail_on((2,), lambda: Unpicklable("a comma", 7)),
    ]
    if dist.get_rank() > 0:  # a group's ranks have numbers of their own
        found.append(fail_on((2,), lambda: ValueError("full"), pair))
    ones = torch.ones(1)
    dist.all_reduce(ones)  # all ranks are still in step
    return found, ones.item()


def test_all_raise_what_the_first_raised() -> None:
    for rank, (found, met) in enumerate(launch(all_cases, 3, show=False)):
        assert found[:5] == [
            (int, str(rank)),
            (FileNotFoundError, "rank 1: no disk"),
            (ValueError, "rank 1: bad file 1"),
            (PermissionError, "locked"),
            (ValueError, "rank 2: a comma in line 7"),
        ]
        assert found[5:] == ([(ValueError, "rank 1: full")] if rank else [])
        assert met == 3


def test_a_program_without_a_group_just_works() -> None:
    def fail() -> None:
        raise FileNotFoundError("no disk")

    assert agree(lambda: 7) == 7
    with pytest.raises(FileNotFoundError, match="no disk"):
        agree(fail)

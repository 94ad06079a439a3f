"""One failure, told by all: work that can fail on one rank alone, such as reading a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
# What travels is one of these kinds and the sentence: an error of a library may be one that cannot be pickled.
KINDS = (FileNotFoundError, FileExistsError, PermissionError, OSError, ValueError)


def agree(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Do the work; when it fails on any rank, raise on all of them. A collective: every rank of the group calls it.

    Without this the other ranks would go on to the next collective, and wait there until its time is over.

    Args:
        work: may be different on each rank, and nothing on some: ``agree(write if rank == 0 else lambda: None)``.
        group: by default all ranks. A program without a process group just does the work.

    Returns:
        what the work returned on this rank.

    Raises:
        OSError, ValueError: on every rank, of the kind and with the sentence of the first rank that failed; the rank is
            named unless all failed. Other errors are not waited for: they end the rank that has them, at once.
    """
    error: Exception | None = None
    try:
        result = work()
    except (OSError, ValueError) as caught:
        error = caught
    own = None if error is None else (next(kind for kind in KINDS if isinstance(error, kind)), str(error))
    everybody = [own]
    if dist.is_initialized():
        everybody *= dist.get_world_size(group)
        dist.all_gather_object(everybody, own, group=group)
    failed = [(rank, *found) for rank, found in enumerate(everybody) if found is not None]
    if not failed:
        return result
    rank, kind, sentence = failed[0]
    raise kind(sentence if len(failed) == len(everybody) else f"rank {rank}: {sentence}") from error

"""The answers of the figure ``ring_all_reduce``: the messages of every step, as the package's ring sends them."""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate


def answers() -> dict[str, Any]:
    """``ring``: for each number of ranks the :func:`moves` of every step."""
    return {"ring": tabulate(lambda ranks: {"steps": moves(ranks)}, ranks=range(2, 9))}


def moves(ranks: int) -> list[list[tuple[int, int, int]]]:
    """Of each of the 2 (ranks - 1) steps, the messages (source, destination, chunk). In the first half what comes is
    added, in the second it is kept; a rank sends on what came to it in the step before."""
    steps = []
    for step in range(2 * (ranks - 1)):
        first = -1 - step if step < ranks - 1 else ranks - 1 - step  # the chunk that rank 0 sends
        steps.append([(rank, (rank + 1) % ranks, (rank + first) % ranks) for rank in range(ranks)])
    return steps

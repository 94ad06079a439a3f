"""The ways to lay a run out on a cluster, ranked: which are possible, how fast each is, what excludes the others."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from course_utils.hybrid.cost import DOES_NOT_FIT, Candidate, Cluster, search
from course_utils.plan.plan import Plan

LEAST_TOKENS = 4096  # of a sequence on a rank that shares it with others


class Layouts(NamedTuple):
    """``possible``, the fastest first, each with its plan and its seconds; ``excluded``: how many grids for which
    reason, told by one of them where they differ in numbers alone."""

    possible: list[Candidate]
    excluded: Counter[str]

    @property
    def tried(self) -> int:
        """How many grids there are."""
        return len(self.possible) + sum(self.excluded.values())


def rank(
    plan: Plan,
    cluster: Cluster,
    gpus: int,
    *,
    micro_batches: Sequence[int] = (1, 2, 4, 8),
    zeros: Sequence[int] = (1, 3),
    recomputes: Sequence[str] = ("none", "pointwise", "full"),
    interleaved: Sequence[int] = (1, 2, 4),
) -> Layouts:
    """All grids of so many GPUs over the axes that the model has, each with the fastest choice of the rest that fits.

    Tensor parallelism comes with sequence parallelism. A pipeline takes ZeRO-1 at most, for stages 2 and 3 would send
    in every micro-batch, and several chunks a rank where its micro-batches can be dealt out. A rank keeps at least
    ``LEAST_TOKENS`` of a sequence: with fewer, products are too small for the speed that is assumed of them.

    Args:
        plan: the model, the batch, the length of a sequence, states, kernel.
    """
    axes = ["data", "pipeline", "context", "tensor"] + ["expert"] * (plan.model.experts is not None)
    choices: list[dict[str, Any]] = [
        {"zero": zero, "recompute": recompute, "sequence_parallel": True, "chunks": chunks}
        for zero, recompute, chunks in itertools.product(zeros, recomputes, interleaved)
    ]
    choices = [choice for choice in choices if choice["chunks"] == 1 or choice["zero"] <= 1]
    found = list(search(plan, cluster, gpus, micro_batches, axes, choices, least_tokens=LEAST_TOKENS))
    possible = sorted((one for one in found if one.time), key=lambda one: one.time.total if one.time else 0.0)
    reasons = [one.reason for one in found if not one.time]
    told = {_kind(reason): reason for reason in reversed(reasons)}  # the first of each kind
    return Layouts(possible, Counter(_short(told[_kind(reason)]) for reason in reasons))


def _kind(reason: str) -> str:
    """A reason without its numbers: equal ones are of a kind."""
    return re.sub(r"[\d.]+", "", _short(reason))


def _short(reason: str) -> str:
    """A reason without what to do about it."""
    return "does not fit into the GPU's memory" if reason.startswith(DOES_NOT_FIT) else reason.split(":")[0]

"""02.4: average gradients over real processes, in buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check
from course_utils.launch import RankFailed, RankTimeout, launch
from course_utils.measure import Ledger
from course_utils.measure.communication import ring_all_reduce_bytes

Rng = np.random.Generator
RANKS = 3

check_average_in_buckets = Check(
    "data_parallelism.4", "average_in_buckets", parameters=("gradients", "capacity"), seconds=30.0
)


class Seen(NamedTuple):
    """What one rank did. ``error`` is what the learner's code raised there."""

    result: Any
    changed: bool
    payloads: list[int]
    operations: list[str]
    wire: float
    error: str


class Run(NamedTuple):
    given: list[list[Tensor]]  # by rank
    capacity: int
    seen: list[Seen]


# Point 1 starts the processes; point 2 looks at the same run, for a start costs more than all that they compute.
_LAST: WeakKeyDictionary[Callable[..., Any], Run] = WeakKeyDictionary()


def _on_rank(function: Callable[..., Any], given: list[list[Tensor]], capacity: int) -> Seen:
    mine = given[dist.get_rank()]
    before = [g.clone() for g in mine]
    ledger, result, error = Ledger(), None, ""
    try:
        with ledger:
            result = function(mine, capacity)
    except NotImplementedError as problem:
        error = f"NotImplementedError: {problem}"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    changed = any(not torch.equal(a, b) for a, b in zip(mine, before, strict=True))
    calls = ledger.calls
    return Seen(result, changed, [c.payload for c in calls], [c.operation for c in calls], ledger.wire_bytes(), error)


def _run(answer: Answer, rng: Rng) -> Run:
    shapes = [(int(rng.integers(3, 30)), int(rng.integers(1, 9))) for _ in range(8)] + [(5,), (1,), (2, 3, 2)]
    given = [[torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in shapes] for _ in range(RANKS)]
    total = sum(g.nbytes for g in given[0])
    capacity = max(total // 4, max(g.nbytes for g in given[0]))
    told = ("given", f"{RANKS} processes, {len(shapes)} gradients each, capacity={capacity}")
    try:
        seen = launch(_on_rank, RANKS, answer.function, given, capacity, timeout=4.0, show=False)
    except RankTimeout as problem:
        raise NotOk(
            told, ("took", str(problem).splitlines()[0]),
            hint="All ranks must call the same collectives in the same order. Does one wait for a partner?", ends=True,
        ) from None  # fmt: skip
    except RankFailed as problem:
        raise NotOk(told, ("raised", str(problem).splitlines()[-1]), ends=True) from None
    if error := seen[0].error:
        unwritten = error.startswith("NotImplementedError: ")
        text = error.removeprefix("NotImplementedError: ")
        raise NotOk(told, ("raised", text), hint="Nothing is written yet." if unwritten else "", ends=True)
    if any(s.changed for s in seen):
        hint = f"{answer.name} must leave its arguments as they were: torch.cat makes a new tensor."
        raise NotOk(told, ("changed", "the gradients that were given"), hint=hint)
    return Run(given, capacity, seen)


@check_average_in_buckets.point(
    "on every rank: the mean over all ranks, each gradient in its own shape",
    hint="Flatten and torch.cat a bucket, dist.all_reduce it, divide, split it again and view_as the gradients.",
)
def _(answer: Answer, rng: Rng) -> None:
    run = _run(answer, rng)
    mean = [torch.stack(parts).mean(0) for parts in zip(*run.given, strict=True)]
    for rank, seen in enumerate(run.seen):
        got = list(seen.result) if isinstance(seen.result, list | tuple) else None
        if got is None or not all(isinstance(g, Tensor) for g in got):
            what = "None" if seen.result is None else type(seen.result).__name__
            raise NotOk(("expected", "a list of tensors"), ("got", what), hint="Return the list of mean gradients.")
        shapes, want = [tuple(g.shape) for g in got], [tuple(m.shape) for m in mean]
        if shapes != want:
            hint = "As many as were given, in the same order, each in its own shape."
            raise NotOk(("expected", f"shapes {want}"[:90]), ("got", f"shapes {shapes}"[:90]), hint=hint)
        wrong = [i for i, (a, b) in enumerate(zip(got, mean, strict=True)) if not torch.allclose(a, b, atol=1e-6)]
        if wrong:
            i = wrong[0]
            raise NotOk(
                ("given", f"{RANKS} processes; gradient {i} on rank {rank}"),
                ("expected", brief(mean[i].flatten()[0].item())),
                ("got", brief(got[i].flatten()[0].item())),
                hint=_explain(got, mean, run.given[rank]),
            )
    _LAST[answer.function] = run


def _explain(got: list[Tensor], mean: list[Tensor], own: list[Tensor]) -> str:
    def all_close(want: list[Tensor]) -> bool:
        return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, want, strict=True))

    if all_close(own):
        return "These are the rank's own gradients: nothing was exchanged, or its result was not used."
    if all_close([m * RANKS for m in mean]):
        return "That is the sum over ranks. Divide by dist.get_world_size()."
    if all_close([m / RANKS for m in mean]):
        return "Divided by the number of ranks twice."
    if all_close([g / RANKS for g in own]):
        return "The rank's own gradients, divided: nothing was exchanged."
    return ""


@check_average_in_buckets.point(
    "in buckets: no larger than the capacity, as few as can be, and no more bytes than a ring needs",
    hint="One dist.all_reduce for each bucket; a bucket takes gradients, the last first, as long as they fit.",
)
def _(answer: Answer, rng: Rng) -> None:
    run = _LAST.pop(answer.function, None) or _run(answer, rng)
    seen, sizes = run.seen[0], [g.nbytes for g in run.given[0]]
    wanted, used = 0, run.capacity + 1
    for size in reversed(sizes):
        wanted, used = (wanted + 1, size) if used + size > run.capacity else (wanted, used + size)
    told = ("given", f"gradients of {sizes} bytes, capacity={run.capacity}")
    if not seen.payloads:
        raise NotOk(told, ("expected", "collectives"), ("got", "none"), hint="Nothing was exchanged between the ranks.")
    least = ring_all_reduce_bytes(sum(sizes), RANKS)
    most = max(s.wire for s in run.seen)
    if most > 1.02 * least or set(seen.operations) != {"all_reduce"}:
        ways = ", ".join(dict.fromkeys(seen.operations))
        raise NotOk(
            told, ("expected", f"{least:.0f} bytes sent by a rank, by all_reduce"), ("got", f"{most:.0f}, by {ways}"),
            hint="2 (N-1)/N of the gradients' size is enough: no gathering of everybody's gradients, no root.",
        )  # fmt: skip
    if max(seen.payloads) > run.capacity:
        hint = "One call carries more than the capacity: close a bucket before it gets too large."
        raise NotOk(told, ("expected", f"at most {run.capacity} a call"), ("got", str(max(seen.payloads))), hint=hint)
    if len(seen.payloads) > wanted + 1:  # one more for those who cut in the order of the model
        hint = "Each call costs a latency: put several gradients into one, up to the capacity."
        raise NotOk(told, ("expected", f"{wanted} calls"), ("got", f"{len(seen.payloads)} calls"), hint=hint)

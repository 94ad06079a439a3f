"""08.2: a sharded optimizer's step on real processes."""

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
RANKS, RATE, DECAY = 3, 0.1, 0.9

check_sharded_step = Check(
    "zero_from_scratch.2", "sharded_step", parameters=("weights", "gradient", "velocity"), seconds=60.0
)


class Given(NamedTuple):
    weights: Tensor  # [P], the same everywhere
    gradients: list[Tensor]  # [P], by rank
    velocities: list[Tensor]  # [P / N], by rank


class Run(NamedTuple):
    given: Given
    results: list[Any]
    wire: float
    operations: list[str]


# Point 1 starts the processes; the others look at the same run, for a start costs more than all that they compute.
_LAST: WeakKeyDictionary[Callable[..., Any], Run] = WeakKeyDictionary()


def _on_rank(function: Callable[..., Any], given: Given) -> tuple[Any, float, list[str], str]:
    rank = dist.get_rank()
    arguments = [given.weights.clone(), given.gradients[rank].clone(), given.velocities[rank].clone()]
    before = [t.clone() for t in arguments]
    ledger, result, error = Ledger(), None, ""
    try:
        with ledger:
            result = function(*arguments)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if not error and any(not torch.equal(a, b) for a, b in zip(arguments, before, strict=True)):
        error = "an argument was changed: work on copies"
    return result, ledger.wire_bytes(), [call.operation for call in ledger.calls], error


def _run(answer: Answer, rng: Rng) -> Run:
    if (last := _LAST.get(answer.function)) is not None:
        return last
    part = int(rng.integers(400, 700))
    size = part * RANKS
    numbers = torch.from_numpy(rng.normal(size=size * (RANKS + 2))).float().split(size)
    given = Given(numbers[0], list(numbers[1:-1]), list(numbers[-1].chunk(RANKS)))
    told = ("given", f"{RANKS} processes, {size} weights, a velocity of {part} on each")
    try:
        seen = launch(_on_rank, RANKS, answer.function, given, timeout=4.0, show=False)
    except RankTimeout as problem:
        raise NotOk(
            told, ("took", str(problem).splitlines()[0]), ends=True,
            hint="All ranks must call the same collectives in the same order. Does one wait for a partner?",
        ) from None  # fmt: skip
    except RankFailed as problem:
        raise NotOk(told, ("raised", str(problem).splitlines()[-1]), ends=True) from None
    if error := seen[0][3]:
        unwritten = error.startswith("NotImplementedError")
        raise NotOk(
            told, ("raised", error.removeprefix("NotImplementedError: ")), ends=True,
            hint="Nothing is written yet." if unwritten else "",
        )  # fmt: skip
    for result, *_ in seen:
        if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(t, Tensor) for t in result)):
            got = "None" if result is None else type(result).__name__
            raise NotOk(told, ("expected", "a pair: weights, velocity"), ("got", got), hint="Return both.", ends=True)
    return Run(given, [s[0] for s in seen], max(s[1] for s in seen), seen[0][2])


def _compare(run: Run, index: int, wanted: list[Tensor], suspects: dict[str, list[Tensor]]) -> None:
    name = ("weights", "velocity")[index]
    got = [result[index] for result in run.results]
    for rank, (own, want) in enumerate(zip(got, wanted, strict=True)):
        if own.shape != want.shape:
            raise NotOk(
                ("given", f"rank {rank} of {RANKS}"),
                ("expected", f"{name} of shape {list(want.shape)}"),
                ("got", f"shape {list(own.shape)}"),
                hint="A rank keeps the velocity of its own part, and has all weights in the end.",
            )
        if not torch.allclose(own, want, atol=1e-5):
            known = [
                text
                for text, theirs in suspects.items()
                if all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(got, theirs, strict=True))
            ]
            at = int((own - want).abs().argmax())
            raise NotOk(
                ("given", f"{name}[{at}] on rank {rank} of {RANKS}"),
                ("expected", brief(want[at].item())),
                ("got", brief(own[at].item())),
                hint=known[0] if known else "",
            )


def _velocities(given: Given, scale: float = 1 / RANKS) -> list[Tensor]:
    parts = (scale * torch.stack(given.gradients).sum(0)).chunk(RANKS)
    return [DECAY * v + g for v, g in zip(given.velocities, parts, strict=True)]


@check_sharded_step.point(
    "the new velocity of the rank's own part, from the mean of all gradients",
    hint="velocity = 0.9 * velocity + (this part of the mean over ranks of gradient)",
)
def _(answer: Answer, rng: Rng) -> None:
    run = _run(answer, rng)
    own = [g.chunk(RANKS)[r] for r, g in enumerate(run.given.gradients)]
    alone = [DECAY * v + g for v, g in zip(run.given.velocities, own, strict=True)]
    first = [DECAY * v + torch.stack(run.given.gradients).mean(0).chunk(RANKS)[0] for v in run.given.velocities]
    _compare(run, 1, _velocities(run.given), {
        "That is the sum over ranks. Divide by dist.get_world_size().": _velocities(run.given, 1.0),
        "Only this rank's own gradient was used: nothing was exchanged.": alone,
        "Every rank took the first part. Rank r owns the r-th.": first,
        "These are the velocities that were given.": run.given.velocities,
    })  # fmt: skip
    _LAST[answer.function] = run


@check_sharded_step.point(
    "the new weights of all parts, on every rank",
    hint="Update your own part, then dist.all_gather the parts and torch.cat them.",
)
def _(answer: Answer, rng: Rng) -> None:
    run = _run(answer, rng)
    velocity, weights = torch.cat(_velocities(run.given)), run.given.weights
    new = weights - RATE * velocity
    only = [weights.clone() for _ in range(RANKS)]
    for rank in range(RANKS):
        only[rank].chunk(RANKS)[rank].copy_(new.chunk(RANKS)[rank])
    _compare(run, 0, [new] * RANKS, {
        "Only this rank's own part is new: the others must hear of it, and it of theirs.": only,
        "That goes uphill: subtract.": [weights + RATE * velocity] * RANKS,
        "These are the weights that were given.": [weights] * RANKS,
    })  # fmt: skip


@check_sharded_step.point(
    "with the two halves of an all-reduce, and no byte more",
    hint="dist.reduce_scatter for gradients, dist.all_gather for weights: 2 (N-1)/N of their size together.",
)
def _(answer: Answer, rng: Rng) -> None:
    run = _run(answer, rng)
    _LAST.pop(answer.function, None)
    velocities = _velocities(run.given)
    _compare(run, 1, velocities, {})
    _compare(run, 0, [run.given.weights - RATE * torch.cat(velocities)] * RANKS, {})
    least, told = ring_all_reduce_bytes(run.given.weights.nbytes, RANKS), ("given", f"{RANKS} processes")
    ways = ", ".join(dict.fromkeys(run.operations)) or "nothing"
    if run.wire > 1.02 * least:
        hint = "A whole all-reduce leaves every rank with all of the sum. It needs only its own part of it."
        raise NotOk(
            told, ("expected", f"{least:.0f} bytes sent by a rank"), ("got", f"{run.wire:.0f}, by {ways}"),
            hint=hint if "all_reduce" in run.operations else "",
        )  # fmt: skip

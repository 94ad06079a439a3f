"""02.1: which chunk a rank sends in each step of a ring all-reduce."""

from __future__ import annotations

import operator

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Holds = list[list[list[int]]]  # rank, chunk -> whose numbers are in the sum, each as often as it was added

check_chunk_to_send = Check("data_parallelism.1", "chunk_to_send", parameters=("rank", "step", "ranks"))


def _chunk(answer: Answer, rank: int, step: int, ranks: int) -> int:
    got = answer(rank, step, ranks)
    try:
        chunk = operator.index(got)
    except TypeError:
        chunk = -1
    if not 0 <= chunk < ranks:
        raise NotOk(
            ("given", answer.call(rank, step, ranks)), ("expected", f"a chunk, 0 to {ranks - 1}"), ("got", repr(got)),
            hint="Go around the ring: take the number modulo `ranks`.",
        )  # fmt: skip
    return chunk


def _ring(answer: Answer, ranks: int, steps: int) -> Holds:
    """Play a ring all-reduce with the learner's choices: the first half adds, the second keeps what comes."""
    holds = [[[rank] for _ in range(ranks)] for rank in range(ranks)]
    for step in range(steps):
        chunks = [_chunk(answer, rank, step, ranks) for rank in range(ranks)]
        sent = [list(holds[rank][chunk]) for rank, chunk in enumerate(chunks)]
        for rank, chunk in enumerate(chunks):
            target = holds[(rank + 1) % ranks]
            target[chunk] = sorted(target[chunk] + sent[rank]) if step < ranks - 1 else sent[rank]
            twice = [r for r in range(ranks) if target[chunk].count(r) > 1]
            if twice:
                raise NotOk(
                    ("given", f"{ranks} ranks, step {step}: rank {rank} sends chunk {chunk}"),
                    ("expected", "each rank's numbers added once"),
                    ("got", f"the numbers of rank {twice[0]} added twice"),
                    hint="Pass on the chunk that has just come in: its sum is the one that grows.",
                )
    return holds


@check_chunk_to_send.point(
    "two ranks: one step adds, one step hands back",
    hint="With two ranks, rank 0 must end step 0 with chunk 0 complete, so it sends chunk 1, and rank 1 sends chunk 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    holds = _ring(answer, 2, 1)
    for rank in range(2):
        if holds[rank][rank] != [0, 1]:
            raise NotOk(
                ("given", "2 ranks, after step 0"),
                ("expected", f"chunk {rank} complete on rank {rank}"),
                ("got", f"chunk {1 - rank} complete there" if holds[rank][1 - rank] == [0, 1] else "no sum of both"),
            )
    _all_have_all(answer, 2)


@check_chunk_to_send.point(
    "the first N - 1 steps: every rank has one complete chunk, and no number is added twice",
    hint="In step 0 a rank sends a chunk of its own; in each later step the chunk that it received in the step before.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (3, 4, int(rng.integers(5, 10))):
        holds = _ring(answer, ranks, ranks - 1)
        for rank in range(ranks):
            complete = [chunk for chunk in range(ranks) if holds[rank][chunk] == list(range(ranks))]
            if len(complete) != 1:
                most = max(len(whose) for whose in holds[rank])
                raise NotOk(
                    ("given", f"{ranks} ranks, after step {ranks - 2}"),
                    ("expected", f"one chunk on rank {rank} with the numbers of all {ranks} ranks"),
                    ("got", f"{len(complete)} of them; the fullest has the numbers of {most}"),
                )


@check_chunk_to_send.point(
    "and it is chunk r that rank r has",
    hint="Chunk r takes N - 1 steps and ends at rank r: where must it start? One rank further on.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (3, int(rng.integers(4, 10))):
        holds = _ring(answer, ranks, ranks - 1)
        for rank in range(ranks):
            if holds[rank][rank] != list(range(ranks)):
                where = next((r for r in range(ranks) if holds[r][rank] == list(range(ranks))), None)
                found = "nowhere" if where is None else f"on rank {where}"
                raise NotOk(
                    ("given", f"{ranks} ranks, after step {ranks - 2}"),
                    ("expected", f"chunk {rank} complete on rank {rank}"),
                    ("got", f"chunk {rank} complete {found}"),
                )


@check_chunk_to_send.point(
    "after 2 (N - 1) steps every rank has every complete chunk",
    hint="The second half begins at step N - 1: there rank r sends chunk r, which it has finished; then what came in.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (3, 4, int(rng.integers(5, 10))):
        _all_have_all(answer, ranks)


def _all_have_all(answer: Answer, ranks: int) -> None:
    holds = _ring(answer, ranks, 2 * (ranks - 1))
    everybody = list(range(ranks))
    done = sum(whose == everybody for rank in holds for whose in rank)
    if done < ranks**2:
        rank, chunk = next((r, c) for r in everybody for c in everybody if holds[r][c] != everybody)
        raise NotOk(
            ("given", f"{ranks} ranks, after step {2 * ranks - 3}"),
            ("expected", f"all {ranks} complete chunks on all ranks"),
            ("got", f"{done} of {ranks**2}; on rank {rank}, chunk {chunk} has the numbers of {holds[rank][chunk]}"),
        )

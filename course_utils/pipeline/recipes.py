"""The pipeline schedules that people use, each a few lines that list what every rank does.

Naive, GPipe and 1F1B are one loop; they differ in one number, how many forwards a rank runs ahead of its backwards.
Sources: GPipe (Huang et al. 2019), 1F1B (Narayanan et al. 2021, section 2.2.1, and its interleaved form in 2.2.2),
zero bubble (Qi et al. 2024, sections 2 and 6), DualPipe (DeepSeek-AI 2024, section 3.2; here its V-shaped form).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from course_utils.pipeline.schedule import Action, B, F, I, Kind, Schedule, W, check_groups, parts


def naive(ranks: int, micro_batches: int) -> Schedule:
    """One micro-batch at a time through all stages: one rank works, the others wait."""
    return _run_ahead("naive", ranks, micro_batches, lambda rank: 0)


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """All forwards, then all backwards: every activation of the step is live at once."""
    return _run_ahead("GPipe", ranks, micro_batches, lambda rank: micro_batches)


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """One forward, one backward: a rank runs ahead just as far as the first gradient takes to come back.

    Rank 1 of 4, with 8 micro-batches::

        F0 F1                                # warm-up: p - 1 - r forwards
        F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5  # steady: one forward, one backward
        B6 B7                                # cool-down: the backwards that are left
    """
    return _run_ahead("1F1B", ranks, micro_batches, lambda rank: min(micro_batches, ranks - 1 - rank))


def _run_ahead(name: str, ranks: int, micro_batches: int, ahead: Callable[[int], int]) -> Schedule:
    """The schedule in which rank r starts its backwards `ahead(r)` forwards late."""
    _check_sizes(ranks, micro_batches)
    programs = []
    for rank in range(ranks):
        program = []
        for step in range(micro_batches + ahead(rank)):
            if step < micro_batches:
                program.append(Action(F, rank, step))
            if step >= ahead(rank):
                program.append(Action(B, rank, step - ahead(rank)))
        programs.append(tuple(program))
    return Schedule(name, tuple(programs), tuple(range(ranks)), micro_batches)


def interleaved(ranks: int, micro_batches: int, chunks: int = 2) -> Schedule:
    """1F1B with several stages on each rank, dealt out in turn: rank r holds the stages r, r + p, r + 2p, ...

    A rank takes p micro-batches through its first stage, the same p through its second, and so on, then the next p.
    The bubble shrinks by the number of chunks, and every activation crosses as many more boundaries.

    Args:
        chunks: stages per rank. With one it is plain 1F1B.

    Raises:
        ValueError: when the micro-batches are more than p, and cannot be dealt out in groups of p.
    """
    _check_sizes(ranks, micro_batches)
    if chunks < 1:
        raise ValueError(f"a rank cannot hold {chunks} chunks: give 1 or more")
    if chunks == 1:
        return one_f_one_b(ranks, micro_batches)
    check_groups(ranks, micro_batches)
    total, group = micro_batches * chunks, min(ranks, micro_batches)
    programs = []
    for rank in range(ranks):
        ahead = min(total, (chunks - 1) * group + 2 * (ranks - 1 - rank))
        tokens: list[tuple[Kind, int]] = []
        for step in range(total + ahead):
            if step < total:
                chunk = step // group % chunks
                tokens.append((F, chunk * ranks + rank))
            if step >= ahead:
                chunk = chunks - 1 - (step - ahead) // group % chunks  # backward, the last chunk comes first
                tokens.append((B, chunk * ranks + rank))
        programs.append(_actions(tokens))
    return Schedule(f"interleaved x{chunks}", tuple(programs), tuple(range(ranks)) * chunks, micro_batches)


def zero_bubble_h1(ranks: int, micro_batches: int) -> Schedule:
    """ZB-H1: 1F1B whose backward is cut in two, so that the gradients of the weights fill what was idle.

    Rank r puts its weight gradients off by r micro-batches. So every rank holds min(m, p) activations, as rank 0 of
    1F1B does.
    """
    _check_sizes(ranks, micro_batches)
    programs = []
    for rank in range(ranks):
        ahead = min(micro_batches, ranks - 1 - rank)
        program = []
        for step in range(micro_batches + ahead + rank):
            if step < micro_batches:
                program.append(Action(F, rank, step))
            if ahead <= step < micro_batches + ahead:
                program.append(Action(I, rank, step - ahead))
            if step >= ahead + rank:
                program.append(Action(W, rank, step - ahead - rank))
        programs.append(tuple(program))
    return Schedule("ZB-H1", tuple(programs), tuple(range(ranks)), micro_batches)


def zero_bubble_v(ranks: int, micro_batches: int) -> Schedule:
    """ZB-V: rank r holds the stages r and 2p-1-r, so the model runs down the ranks and back up.

    The last stage lies on rank 0 with the first: gradients come back early, and when F, I and W take the same time
    nothing is idle but the start and the end. Made for 2p-1 micro-batches or more; with fewer, the rest is left out.
    """
    _check_sizes(ranks, micro_batches)
    full = max(micro_batches, 2 * ranks - 1)
    programs = []
    for rank in range(ranks):
        down, up = rank, 2 * ranks - 1 - rank
        tokens = [(F, down)] * (2 * (ranks - rank) - 1)
        tokens += [(F, up), (F, down)] * rank
        tokens += [(F, up), (I, up), (W, up)] * (ranks - rank)
        both_ways = [(I, down), (W, down), (F, up), (I, up), (W, up)]
        tokens += [(F, down), *both_ways] * (full - 2 * ranks + 1 + rank)
        tokens += both_ways * (ranks - 1 - rank)
        tokens += [(I, down), (I, up)] * rank  # weights wait: the ranks below wait for these inputs' gradients
        tokens += [(I, down), (W, down)] * (ranks - rank)
        tokens += [(W, up)] * rank + [(W, down)] * rank
        programs.append(tuple(a for a in _actions(tokens) if a.micro_batch < micro_batches))
    return Schedule("ZB-V", tuple(programs), _v_shape(ranks), micro_batches)


def dualpipe_v(ranks: int, micro_batches: int) -> Schedule:
    """DualPipeV: stages as in ZB-V, but the backward is cut in two only at the start and at the end.

    In between, a forward and a backward of different micro-batches follow each other. On a GPU the two run side by
    side, so that the messages of one hide behind the arithmetic of the other; as a schedule they stand in sequence.

    Raises:
        ValueError: when there are fewer micro-batches than stages.
    """
    _check_sizes(ranks, micro_batches)
    if micro_batches < 2 * ranks:
        raise ValueError(
            f"DualPipeV on {ranks} ranks has {2 * ranks} stages and needs as many micro-batches or more, "
            f"not {micro_batches}: choose {2 * ranks} or more"
        )
    programs = []
    for rank in range(ranks):
        down, up, below = rank, 2 * ranks - 1 - rank, ranks - 1 - rank
        tokens = [(F, down)] * (2 * below)
        tokens += [(F, down), (F, up)] * (rank + 1)
        tokens += [(I, up), (W, up), (F, up)] * below
        tokens += [(F, down), (B, up), (F, up), (B, down)] * (micro_batches - 2 * ranks + rank + 1)
        tokens += [(B, up), (F, up), (B, down)] * below
        last = [up, down] * (rank + 1)  # the backwards that are left once the forwards are over: the later half is cut
        tokens += [(B, stage) for stage in last[: rank + 1]] + [(I, stage) for stage in last[rank + 1 :]]
        weights = [(W, stage) for stage in last[rank + 1 :] + [down] * below]
        for weight in weights[:below]:
            tokens += [weight, (I, down)]
        programs.append(_actions(tokens + weights[below:]))
    return Schedule("DualPipeV", tuple(programs), _v_shape(ranks), micro_batches)


def _actions(tokens: Sequence[tuple[Kind, int]]) -> tuple[Action, ...]:
    """A program from (kind, stage) alone: each stage takes the micro-batches in order, in each kind of action."""
    count: Counter[tuple[Kind, int]] = Counter()
    program = []
    for kind, stage in tokens:
        action = Action(kind, stage, count[I if kind is B else kind, stage])
        count.update((part.kind, stage) for part in parts(action))
        program.append(action)
    return tuple(program)


def _v_shape(ranks: int) -> tuple[int, ...]:
    """Stage to rank, down and back up: 0, 1, ..., p-1, p-1, ..., 1, 0."""
    return (*range(ranks), *reversed(range(ranks)))


def _check_sizes(ranks: int, micro_batches: int) -> None:
    if ranks < 1:
        raise ValueError(f"a pipeline cannot have {ranks} ranks: give 1 or more")
    if micro_batches < 1:
        raise ValueError(f"a step cannot have {micro_batches} micro-batches: give 1 or more")

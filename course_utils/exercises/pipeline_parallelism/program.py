"""03.2: what one rank of a 1F1B pipeline does, in order."""

from __future__ import annotations

import re

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.pipeline.schedule import Action, Kind, Schedule
from course_utils.pipeline.simulator import simulate

Rng = np.random.Generator

check_one_f_one_b = Check("pipeline_parallelism.2", "one_f_one_b", parameters=("rank", "ranks", "micro_batches"))


def _program(answer: Answer, rank: int, ranks: int, micro_batches: int) -> list[str]:
    """The learner's list, when it has each forward and each backward once, in the order of the micro-batches."""
    got = answer(rank, ranks, micro_batches)
    given = ("given", answer.call(rank, ranks, micro_batches))
    good = isinstance(got, list) and all(isinstance(item, str) and re.fullmatch(r"[FB]\d+", item) for item in got)
    if not good:
        raise NotOk(given, ("expected", "a list of strings such as ['F0', 'F1', 'B0', ...]"), ("got", repr(got)[:60]))
    shown = ("got", " ".join(got[:24]) + (" ..." if len(got) > 24 else ""))
    for kind, name in (("F", "forwards"), ("B", "backwards")):
        order = [int(item[1:]) for item in got if item[0] == kind]
        if order != list(range(micro_batches)):
            hint = (
                f"The {name} should be those of the micro-batches 0 to {micro_batches - 1}, each once, in this order."
            )
            if sorted(order) == list(range(micro_batches)):
                hint = f"Each of the {name} is there, but not in the order of the micro-batches: the oldest goes first."
            raise NotOk(given, shown, hint=hint)
    return got


def _schedule(answer: Answer, ranks: int, micro_batches: int) -> Schedule:
    """The programs of all ranks as a schedule, if they can run together."""
    programs = [_program(answer, rank, ranks, micro_batches) for rank in range(ranks)]
    actions = tuple(
        tuple(Action(Kind(item[0]), rank, int(item[1:])) for item in program) for rank, program in enumerate(programs)
    )
    try:
        return Schedule("yours", actions, tuple(range(ranks)), micro_batches)
    except ValueError as error:
        raise NotOk(
            ("given", f"the programs of all {ranks} ranks, {micro_batches} micro-batches"),
            ("problem", str(error)),
            hint="Rank r must run ahead of its backwards as far as the first gradient takes to come back to it.",
        ) from None


@check_one_f_one_b.point(
    "every micro-batch goes forward once and backward once, in order",
    hint="A list of 2 m strings: 'F0' to 'F<m-1>' and 'B0' to 'B<m-1>'.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (2, 5):
        for rank in range(ranks):
            _program(answer, rank, ranks, int(rng.integers(ranks, 20)))


@check_one_f_one_b.point(
    "all ranks together run through: none waits for ever",
    hint="A backward needs its own forward, and the backward of the rank after it.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (1, 2, 3, 4, 7):
        _schedule(answer, ranks, int(rng.integers(ranks, 20)))


@check_one_f_one_b.point(
    "rank r holds at most p - r micro-batches",
    hint="Do not run further ahead than p - 1 - r forwards before the first pair of forward and backward.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (2, 4, 6):
        micro_batches = int(rng.integers(ranks + 2, 24))
        live = _schedule(answer, ranks, micro_batches).peak_live()
        for rank, (held, allowed) in enumerate(zip(live, range(ranks, 0, -1), strict=True)):
            if held > allowed:
                gpipe = all(count == micro_batches for count in live)
                hint = "That is GPipe: all forwards, then all backwards." if gpipe else ""
                raise NotOk(
                    ("given", f"{ranks} ranks, {micro_batches} micro-batches"),
                    ("expected", f"at most {allowed} live micro-batches on rank {rank}"),
                    ("got", str(held)),
                    hint=hint,
                )


@check_one_f_one_b.point(
    "no time is lost: the step is as long as GPipe's",
    hint="Rank r begins with p - 1 - r forwards. With fewer it waits in every turn for a gradient on its way.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (4, 6, 3):
        micro_batches = int(rng.integers(ranks + 2, 24))
        took = simulate(_schedule(answer, ranks, micro_batches)).makespan
        ideal = 3.0 * (micro_batches + ranks - 1)
        if took > ideal:
            one_by_one = took == 3.0 * micro_batches * ranks
            raise NotOk(
                ("given", f"{ranks} ranks, {micro_batches} micro-batches; a forward takes 1, a backward 2"),
                ("expected", f"a step of {ideal:g}"),
                ("got", f"{took:g}"),
                hint="One micro-batch at a time: while one rank works, the others wait." if one_by_one else "",
            )


@check_one_f_one_b.point(
    "fewer micro-batches than ranks",
    hint="There are no more than m forwards to run ahead with: min(m, p - 1 - r).",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks, micro_batches in ((4, 1), (5, 3), (6, int(rng.integers(2, 6)))):
        schedule = _schedule(answer, ranks, micro_batches)
        expected = [min(micro_batches, ranks - rank) for rank in range(ranks)]
        if schedule.peak_live() != expected:
            raise NotOk(
                ("given", f"{ranks} ranks, {micro_batches} micro-batches"),
                ("expected", f"live micro-batches by rank {expected}"),
                ("got", str(schedule.peak_live())),
                hint="With few micro-batches the first ranks run ahead with all of them, the others as before.",
            )

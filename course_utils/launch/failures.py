"""Who failed, and why: the report of one rank chosen from those of all."""

from __future__ import annotations

import builtins
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.launch.tracebacks import Frame, listed, readable_traceback, stack, waits_for_others

if TYPE_CHECKING:
    from course_utils.launch.worker_process import RankProcess


class RankFailed(RuntimeError):
    """A rank raised or died.

    Attributes:
        rank: which; of several the cause, not one that merely noticed.
        traceback: its own traceback as text, or its stack when it could not raise.
    """

    def __init__(self, message: str, rank: int, traceback: str) -> None:
        super().__init__(message)
        self.rank, self.traceback = rank, traceback

    def __reduce__(self) -> tuple[type[RankFailed], tuple[str, int, str]]:
        return type(self), (str(self), self.rank, self.traceback)

    @property
    def sentence(self) -> str:
        """What to tell the user of a command: errors that speak to people without the traceback, others with it."""
        kind, _, message = self.traceback.strip().rpartition("\n")[2].partition(": ")
        error = getattr(builtins, kind, None)
        speaks = isinstance(error, type) and issubclass(error, ValueError | OSError)
        return message if speaks else str(self)


class RankTimeout(RankFailed, TimeoutError):
    """A rank did not return in time; ``traceback`` is its stack at that moment."""


def failure(ranks: Sequence[RankProcess]) -> RankFailed:
    """The failure that explains the others.

    First comes an error of a rank's own, then a death, then what is only the echo of a peer's end; among equals the
    lowest rank, so that the message is the same in every run.
    """
    failed = [rank for rank in ranks if rank.state in ("raised", "died")]

    def order(rank: RankProcess) -> tuple[int, int]:
        return (1 if rank.state == "died" else 2 if rank.reports[-1].echo else 0), rank.number

    culprit = min(failed, key=order)
    if culprit.state == "died":
        said, trace = _death(culprit)
    else:
        said, trace = " failed", readable_traceback(culprit.reports[-1].text)
    message = [
        f"rank {culprit.number} of {len(ranks)}{said}:" if trace else f"rank {culprit.number} of {len(ranks)}{said}"
    ]
    message += [trace] if trace else []
    for rank in failed:
        if rank is not culprit and order(rank)[0] < 2:
            last = "died" if rank.state == "died" else rank.reports[-1].text.strip().splitlines()[-1]
            message.append(f"rank {rank.number} failed too: {last}")
    if order(culprit)[0] == 2 and (left := [rank.number for rank in ranks if rank.state == "returned"]):
        message.append(f"{listed(left)} had returned already: every rank must take part in every collective")
    return RankFailed("\n".join(message), culprit.number, trace)


def _death(rank: RankProcess) -> tuple[str, str]:
    """How a rank ended that could say nothing, and its stack if it crashed."""
    assert rank.exit_code is not None
    frames = stack(bytes(rank.dumped).decode("utf-8", "replace"))
    trace = _as_traceback(frames)
    if rank.exit_code >= 0:
        return f" ended with exit code {rank.exit_code} before it returned", trace
    name = signal.Signals(-rank.exit_code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f" was killed by {name}{hint}", trace


def time_out(ranks: Sequence[RankProcess], seconds: float) -> RankTimeout:
    """Which rank holds up the others, by where each one stands."""
    late = [rank.number for rank in ranks if rank.state in ("starting", "running")]
    stacks = {number: stack(bytes(ranks[number].dumped).decode("utf-8", "replace")) for number in late}
    waiting = [number for number in late if waits_for_others(stacks[number])]
    busy = [number for number in late if number not in waiting]
    named = busy or waiting
    lines = [f"{listed(named)} of {len(ranks)} {'has' if len(named) == 1 else 'have'} not returned after {seconds:g} s"]
    for number in busy:
        place = _as_traceback(stacks[number]) or "it had not begun to run the function"
        lines += [f"rank {number} stood here:", place]
    lines += [f"rank {number} waited in a collective: {_caller_of_library(stacks[number])}" for number in waiting]
    if not busy:
        gone = [rank.number for rank in ranks if rank.state == "returned"]
        lines += [f"{listed(gone)} had returned"] if gone else []
        lines.append("every rank must take part in every collective, in the same order and with the same shapes")
    return RankTimeout("\n".join(lines), named[0], _as_traceback(stacks[named[0]]))


def _caller_of_library(frames: Sequence[Frame]) -> str:
    """The innermost line that is not torch's own."""
    own = [found for found in frames if not found.file.startswith("torch/")]
    return str(own[-1]).strip().replace("\n   ", ":") if own else str(frames[-1]).strip()


def _as_traceback(frames: Sequence[Frame]) -> str:
    return "\n".join(["Stack (most recent call last):", *map(str, frames)]) if frames else ""

"""Who failed, and why: of what all ranks tell, the one thing that explains the rest."""

from __future__ import annotations

import builtins
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.launch.tracebacks import Frame, listed, readable_traceback, stack, waits_for_others

if TYPE_CHECKING:
    from course_utils.launch.worker_process import WorkerProcess


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
        speaks = isinstance(error, type) and issubclass(error, ValueError | OSError | FloatingPointError)
        return message if speaks else str(self)


class RankTimeout(RankFailed, TimeoutError):
    """A rank did not return in time; ``traceback`` is its stack at that moment."""


def rank_failed(workers: Sequence[WorkerProcess]) -> RankFailed:
    """The failure that explains the others.

    First comes an error of a rank's own, then a death, then what is only the echo of a peer's end; among equals the
    lowest rank, so that the message is the same in every run.
    """
    failed = [each for each in workers if each.failed]

    def order(each: WorkerProcess) -> tuple[int, int]:
        return (1 if each.state == "died" else 2 if each.status.echo else 0), each.rank

    first = min(failed, key=order)
    if first.state == "died":
        said, shown = _death(first.status.exit_code), _as_traceback(_stack(first))
    else:
        said, shown = "failed", readable_traceback(first.status.traceback)
    message = [f"rank {first.rank} of {len(workers)} {said}" + (f":\n{shown}" if shown else "")]
    for each in failed:
        if each is not first and order(each)[0] < 2:
            last = "died" if each.state == "died" else each.status.traceback.strip().splitlines()[-1]
            message.append(f"rank {each.rank} failed too: {last}")
    if order(first)[0] == 2 and (left := [each.rank for each in workers if each.state == "returned"]):
        message.append(f"{listed(left)} had returned already: every rank must take part in every collective")
    return RankFailed("\n".join(message), first.rank, shown)


def _death(exit_code: int) -> str:
    """How a rank ended that could say nothing."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code} before it returned"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}" + ", as the system does when memory runs out" * (name == "SIGKILL")


def rank_timeout(workers: Sequence[WorkerProcess], late: Sequence[WorkerProcess], seconds: str) -> RankTimeout:
    """Which rank holds up the others, by where each one stands.

    Args:
        late: the workers that had not returned when the time was over; by now they may have.
    """
    stacks = {each.rank: _stack(each) for each in late}
    waiting = [each for each in late if waits_for_others(stacks[each.rank])]
    busy = [each for each in late if each not in waiting]
    named = [each.rank for each in busy or waiting]
    lines = [f"{listed(named)} of {len(workers)} {'has' if len(named) == 1 else 'have'} not returned after {seconds}"]
    for each in busy:
        if found := stacks[each.rank]:
            lines += [f"rank {each.rank} stood here:", _as_traceback(found)]
        else:
            lines.append(f"rank {each.rank} {_WITHOUT_STACK[each.state]}")
    lines += [f"rank {each.rank} waited in a collective: {_caller_of_library(stacks[each.rank])}" for each in waiting]
    if not busy:
        gone = [each.rank for each in workers if each.state == "returned"]
        lines += [f"{listed(gone)} had returned"] if gone else []
        lines.append("every rank must take part in every collective, in the same order and with the same shapes")
    return RankTimeout("\n".join(lines), named[0], _as_traceback(stacks[named[0]]))


_WITHOUT_STACK = {
    "starting": "had not begun to run the function",
    "running": "does not answer: it was stopped, or is in a call that cannot be interrupted",
    "returned": "returned a moment later: give it more time",
}


def _stack(each: WorkerProcess) -> list[Frame]:
    return stack(bytes(each.stacks).decode("utf-8", "replace"))


def _caller_of_library(frames: Sequence[Frame]) -> str:
    """The innermost line that is not torch's own."""
    own = [found for found in frames if not found.file.startswith("torch/")]
    return str(own[-1]).strip().replace("\n   ", ":") if own else str(frames[-1]).strip()


def _as_traceback(frames: Sequence[Frame]) -> str:
    return "\n".join(["Stack (most recent call last):", *map(str, frames)]) if frames else ""

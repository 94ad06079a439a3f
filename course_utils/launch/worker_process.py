"""The caller's side of one rank: its process, its status, what it prints and where it stands."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle

from course_utils.launch import worker

_MAIN = threading.Lock()  # there is one __main__ for all threads


class WorkerProcess:
    """The caller's side of one rank: its process, and the three pipes from it."""

    def __init__(self, rank: int, show: bool) -> None:
        self.rank, self.show = rank, show
        self.process: Any = None  # once it is started
        self.status = worker.Status("starting")
        self.printed, self.stacks = bytearray(), bytearray()
        self.pipes: dict[Connection, bytearray | None] = {}  # still open -> where its bytes go; None: a status
        self.shown = 0  # bytes of ``printed`` that were shown already

    def start(self, context: Any, setup: worker.Setup, call: bytes) -> None:
        ends = [context.Pipe(duplex=True), context.Pipe(duplex=False), context.Pipe(duplex=False)]
        ours, theirs = zip(*ends, strict=True)
        process = context.Process(target=worker.main, args=(setup, call, *theirs), name=f"rank {self.rank}")
        try:
            with _MAIN, _without_main():
                process.start()
        except BaseException:
            for end in ours:
                end.close()
            raise
        finally:
            for end in theirs:
                end.close()  # or their end would never be seen
        self.process, self.status_pipe = process, ours[0]
        self.pipes = dict(zip(ours, (None, self.printed, self.stacks), strict=True))

    @property
    def state(self) -> worker.State:
        return self.status.state

    @property
    def failed(self) -> bool:
        return self.state in ("raised", "died")

    @property
    def at_work(self) -> bool:
        return self.state in ("starting", "running")

    def result(self) -> Any:
        return cloudpickle.loads(self.status.value)

    def read(self, pipe: Connection) -> None:
        """Take in what has come through one of the pipes."""
        received = self.pipes[pipe]
        if received is None:
            try:
                self.status = cloudpickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                self.process.join(2)
                self.status = worker.Status("died", exit_code=self.process.exitcode or 0)
            if not self.at_work:
                del self.pipes[pipe]  # nothing more is read from it; it stays open until all ranks are done
            return
        try:
            data = os.read(pipe.fileno(), 1 << 16)
        except OSError:
            data = b""
        if not data:
            del self.pipes[pipe]
            pipe.close()
        received += data
        if received is self.printed:
            self.print_lines(live=True)

    def print_lines(self, *, live: bool = False) -> None:
        """Print what came and was not printed yet; while the run lasts, only rank 0's complete lines."""
        if not self.show or (live and self.rank > 0):
            return
        end = self.printed.rfind(b"\n") + 1 if live else len(self.printed)
        text, self.shown = bytes(self.printed[self.shown : end]).decode("utf-8", "replace"), max(end, self.shown)
        for line in text.removesuffix("\n").split("\n") if text else ():
            # A progress bar writes over its line again and again: its last state is shown.
            print(f"[rank {self.rank}] {line.rstrip().rpartition(chr(13))[2]}", flush=True)

    def send_signal(self, number: int) -> None:
        if self.at_work:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End the process, if it has not ended, and all that it started."""
        if self.process is None or self.process.pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():  # it may not have come to make its group
            self.process.kill()

    def close(self, seconds: float) -> None:
        """Wait for the end of a process that was killed; give back every descriptor now, for a traceback may keep this
        object for long."""
        if self.process is not None:
            self.process.join(seconds)
            if not self.process.is_alive():
                self.process.close()
            self.status_pipe.close()
        for pipe in self.pipes:
            pipe.close()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script, which multiprocessing would run again in each rank; cloudpickle has what it needs."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def read_all(workers: Iterable[WorkerProcess], seconds: float) -> bool:
    """Take in what comes within that time; False when nothing did."""
    sources = {pipe: each for each in workers for pipe in each.pipes}
    ready = wait(list(sources), timeout=max(0.0, seconds))
    for pipe in ready:
        assert isinstance(pipe, Connection)
        sources[pipe].read(pipe)
    return bool(ready)

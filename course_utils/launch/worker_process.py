"""The caller's side of one rank: its process, what it reports, what it prints and where it stands."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle

from course_utils.launch import worker

_MAIN = threading.Lock()  # there is one __main__ for all threads


class RankProcess:
    """The caller's side of one rank: its process, and the three pipes from it."""

    def __init__(self, number: int, show: bool) -> None:
        self.number, self.show = number, show
        self.process: Any = None
        self.caller: Connection | None = None  # reports come from here
        self.pipes: dict[Connection, bytearray] = {}
        self.reports: list[worker.Report] = []
        self.exit_code: int | None = None  # of a rank that ended without a word
        self.shown = 0  # bytes of the output that were printed already

    def start(self, context: Any, settings: worker.Settings, call: bytes) -> None:
        self.caller, theirs = context.Pipe(duplex=True)
        self.output, printed = context.Pipe(duplex=False)
        self.stacks, dumped = context.Pipe(duplex=False)
        self.pipes = {self.output: bytearray(), self.stacks: bytearray()}
        self.printed, self.dumped = self.pipes[self.output], self.pipes[self.stacks]
        name = f"rank {self.number}"
        self.process = context.Process(target=worker.main, args=(settings, call, theirs, printed, dumped), name=name)
        with _MAIN, _without_main():
            self.process.start()
        for theirs_too in (theirs, printed, dumped):
            theirs_too.close()  # or their end would never be seen

    @property
    def state(self) -> Literal["starting", "running", "returned", "raised", "died"]:
        if self.exit_code is not None:
            return "died"
        if not self.reports:
            return "starting"
        kinds: dict[str, Any] = {"ready": "running", "value": "returned", "error": "raised"}
        return kinds[self.reports[-1].kind]

    def result(self) -> Any:
        return cloudpickle.loads(self.reports[-1].value)

    def listening(self) -> list[Connection]:
        return [*([self.caller] if self.caller and self.state in ("starting", "running") else []), *self.pipes]

    def hear(self, connection: Connection) -> None:
        """Take in what has come through one of the pipes."""
        if connection is not self.caller:
            try:
                data = os.read(connection.fileno(), 1 << 16)
            except OSError:
                data = b""
            if not data:
                del self.pipes[connection]
                connection.close()
            elif connection is self.output:
                self.printed += data
                self.print_lines(live=True)
            else:
                self.dumped += data
            return
        try:
            self.reports.append(cloudpickle.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            self.process.join(2)
            self.exit_code = self.process.exitcode if self.process.exitcode is not None else 0

    def print_lines(self, *, live: bool = False) -> None:
        """Print what came and was not printed yet; while the run lasts, only rank 0's complete lines."""
        if not self.show or (live and self.number > 0):
            return
        end = self.printed.rfind(b"\n") + 1 if live else len(self.printed)
        text, self.shown = bytes(self.printed[self.shown : end]).decode("utf-8", "replace"), max(end, self.shown)
        for line in text.removesuffix("\n").split("\n") if text else ():
            # A progress bar writes over its line again and again: its last state is shown.
            print(f"[rank {self.number}] {line.rstrip().rpartition(chr(13))[2]}", flush=True)

    def kill(self) -> None:
        """End the process, if it has not ended, and all that it started."""
        if self.process is None or self.process.pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():  # it may not have come to make its group
            self.process.kill()

    def close(self) -> None:
        """Give back every descriptor now: a traceback may keep this object for long."""
        if self.process is not None and not self.process.is_alive():
            self.process.close()
        for connection in (self.caller, *self.pipes):
            if connection is not None:
                connection.close()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script, which multiprocessing would run again in each rank; cloudpickle has what it needs."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def drain(ranks: Iterable[RankProcess], seconds: float) -> bool:
    """Take in what comes within that time; False when nothing did."""
    sources = {connection: rank for rank in ranks for connection in rank.listening()}
    ready = wait(list(sources), timeout=max(0.0, seconds))
    for connection in ready:
        assert isinstance(connection, Connection)
        sources[connection].hear(connection)
    return bool(ready)

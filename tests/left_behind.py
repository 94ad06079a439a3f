"""What a launch could leave behind on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil


def running(pid: int) -> bool:
    """Whether a process lives. One that has ended and waits for the system's first process to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(things: Sequence[Any], seconds: float = 5.0, still: Callable[[Any], bool] = running) -> bool:
    """Whether all these (process numbers, if nothing else is said) are gone within so many seconds."""
    end = time.monotonic() + seconds
    while any(map(still, things)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(still, things))


class Machine(NamedTuple):
    """What a launch could leave behind on this machine."""

    processes: frozenset[int]
    descriptors: int
    ports: frozenset[int]
    temporary: frozenset[str]
    shared_memory: frozenset[str]

    @classmethod
    def now(cls, temporary: Path) -> Machine:
        me = psutil.Process()
        names = [{path.name for path in folder.glob("*")} for folder in (temporary, Path("/dev/shm"))]
        ports = {c.laddr.port for c in me.net_connections() if c.status == psutil.CONN_LISTEN}
        children = {child.pid for child in me.children(recursive=True)}
        return cls(frozenset(children), me.num_fds(), frozenset(ports), *map(frozenset, names))

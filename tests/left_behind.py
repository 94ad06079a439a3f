"""What a launch could leave behind on this machine, and a fixture that says that it left nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest


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
    """What a launch could leave behind on this machine, and a fixture that says that it left nothing."""

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


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare the machine before and after the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = Machine.now(folder)
    yield
    new = sorted(Machine.now(folder).processes - before.processes)
    assert gone(new, still=psutil.pid_exists), "a process is left, or a zombie: one that nobody waited for"
    # Browsers and other tests on this machine use shared memory too: theirs goes while this waits.
    names = sorted(Machine.now(folder).shared_memory - before.shared_memory)
    assert gone(names, still=lambda name: Path("/dev/shm", name).exists()), f"shared memory is left: {names}"
    assert Machine.now(folder)._replace(shared_memory=before.shared_memory) == before

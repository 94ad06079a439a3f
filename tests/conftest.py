"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from left_behind import Machine, gone


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

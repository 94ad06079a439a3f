"""A run's folder for one run alone: tried before the first step, locked until the end, swept of leftovers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: two runs are kept apart by what open_folder refuses alone
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
LEFT_OVER = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")  # what files.atomic_write calls a file that is not whole yet
log = logging.getLogger("course_utils.run")


@contextlib.contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Inside, no other run writes to the folder, on this machine or, where its file system has locks, on any other.

    The folder is made, and unmade if nothing came to stand in it. The lock is the kernel's (``flock``): it ends with
    the process, however that ends.

    Raises:
        OSError: (a subclass, by cause) nothing can be written there.
        ValueError: another run is writing there.
    """
    if folder is None:
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder / LOCK)
    except OSError as error:
        _unmake(made)
        words = f"no run can be written to {folder} ({error.strerror}): choose another folder (--output)"
        raise type(error)(words) from None
    try:
        _sweep(folder)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        file.close()
        _unmake(made)


def _locked(path: Path) -> IO[str]:
    """The open file that holds the lock."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "a process that does not say which"
            file.close()
            raise ValueError(
                f"another run is writing to {path.parent} ({holder}): wait for its end, or choose another folder "
                "(--output)"
            ) from None
        except OSError:  # a file system without locks
            return file
        # Between open and flock the one before may have ended, and removed the file that is locked now.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        file.close()


def _sweep(folder: Path) -> None:
    """Remove the halves of files that were being written when a run was killed. They are hidden, and as large as what
    they were to be; the lock says that nobody is writing them now."""
    halves = [path for path in folder.iterdir() if LEFT_OVER.fullmatch(path.name)]
    for path in halves:
        path.unlink(missing_ok=True)
    if halves:
        log.info("removed %d files that a killed run had not finished writing", len(halves))


def _unmake(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # the first that is not empty ends it
        for folder in folders:
            folder.rmdir()

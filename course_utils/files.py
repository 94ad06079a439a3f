"""Writing files so that nothing is lost: the new content appears whole, or the old one stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under ``path`` only when the block has ended without an error.

    Example::

        with atomic_write("results.json", "w") as file:
            json.dump(results, file)

    Raises:
        OSError: (a subclass, by cause) it could not be written; what was there before is unchanged.
    """
    target = Path(path).resolve()  # through a symbolic link: replace what it points to, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or the rename could reach the disk before the bytes do
        temporary.replace(target)
        if os.name == "posix":
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # makes the rename itself last through a power cut
            finally:
                os.close(folder)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise  # not ours: the block failed on another file
        message = (
            f"could not write {path}: {error.strerror or error}. What was there before is unchanged. "
            f"Check that {target.parent} exists, may be written to and has space left, or choose another folder"
        )
        raise OSError(error.errno, message) from error
    finally:
        temporary.unlink(missing_ok=True)


def made_folder(path: str | Path) -> Path:
    """The folder of this path, made with all above it where it is not there.

    Raises:
        OSError: (a subclass, by cause) it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"the folder {folder} cannot be made ({error.strerror}): choose another, or remove what is in its place"
        raise type(error)(words) from None
    return folder

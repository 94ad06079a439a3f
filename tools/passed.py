"""Which test files need not run again: those that passed whole, if nothing that they stand on has changed since.

``pytest --changed`` leaves them out, as `make test` does; the records lie in ``_build/passed``. A file stands on what
``tools.closure.under_test`` finds; one that knows the checkout (it reaches ``tools.contents``) stands on every file.
"""

import functools
import hashlib
import json
import os
from pathlib import Path

from tools import closure, execution
from tools.contents import ROOT

PASSED = ROOT / "_build" / "passed"
ALWAYS = [ROOT / name for name in ("conftest.py", "pyproject.toml", "tools/passed.py", "tools/closure.py")]
LEFT_OUT = {".git", ".venv", "_build", "build", "dist", "__pycache__"}  # of the checkout; and what ends so:
CACHES = ("_cache", ".egg-info")


def stamp(test: Path) -> str:
    """SHA-256 of all that decides whether a test file passes: sources, data and versions."""
    files = closure.under_test(test, ROOT)
    names = {path.relative_to(ROOT).as_posix(): path for path in (*files, *ALWAYS)}
    digest = hashlib.sha256(json.dumps(execution.versions(), sort_keys=True).encode())
    if "tools/contents.py" in names:
        digest.update(_checkout().encode())
    else:
        digest.update("".join(f"\0{name}\0{_digest(path)}" for name, path in sorted(names.items())).encode())
    return digest.hexdigest()


def fresh(test: Path, before: float) -> bool:
    """True if the file passed with what it stands on now, at a time before ``before``: no worker sees a run's own."""
    try:
        kept = _record(test)
        return kept.stat().st_mtime < before and kept.read_text("utf8") == stamp(test)
    except OSError:
        return False


def keep(test: Path, stamp_before: str) -> None:
    """Write down that a file passed; ``stamp_before`` was taken before it ran."""
    execution.write(_record(test), stamp_before)


def forget(test: Path) -> None:
    """A test of the file failed."""
    _record(test).unlink(missing_ok=True)


def _record(test: Path) -> Path:
    return PASSED / test.relative_to(ROOT).with_suffix(".txt")


@functools.cache
def _checkout() -> str:
    """One digest of every file that a clone would hold, and of those that wait to be added."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.endswith(CACHES))
        for name in sorted(files):
            path = Path(folder, name)
            digest.update(f"\0{path.relative_to(ROOT).as_posix()}\0{_digest(path)}".encode())
    return digest.hexdigest()


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""The folder of a run: what lies in it, when a run may begin or go on there, and what is read from it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.files import atomic_write
from course_utils.training import checkpoint
from course_utils.training.checkpoint import Checkpoint
from course_utils.training.settings import RunSettings

LAST, BEST, HISTORY, CARD = "last.safetensors", "best.safetensors", "history.json", "README.md"
# What may differ when a run is resumed. The number of processes too: no batch depends on it.
MAY_CHANGE = {"resume", "overwrite", "output", "processes", "save_every", "tensorboard", "patience"}
MAY_CHANGE |= {"data_dir", "download"}


def open_folder(config: RunSettings) -> Checkpoint | None:
    """Refuse to lose a run, and to resume none; the checkpoint to go on from, if that is asked for.

    Raises:
        FileNotFoundError: there is nothing to resume.
        ValueError: there is a run already, or its checkpoint is broken.
    """
    if config.folder is None:
        return None
    last = config.folder / LAST
    if config.resume:
        if not last.exists():
            raise FileNotFoundError(f"there is nothing to resume: no {last}; leave out resume to begin")
        return checkpoint.load(last)
    if not config.overwrite and (last.exists() or (config.folder / BEST).exists()):
        raise ValueError(
            f"{config.folder} holds a run already: resume it (--resume), replace it (--overwrite), or choose another "
            "folder (--output)"
        )
    return None


def facts_of(found: Checkpoint, key: str) -> dict[str, Any]:
    """The facts in a checkpoint of a run; ``key`` is one that the project's runs have.

    Raises:
        ValueError: it is no checkpoint of such a run.
    """
    extra = found.extra if isinstance(found.extra, dict) else {}
    facts = extra.get("facts", extra)
    if key not in facts:
        raise ValueError(f"{found.path} is a checkpoint, but of no run of this project: name another folder")
    return dict(facts)


def check_same_run(found: Checkpoint, config: RunSettings, facts: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the checkpoint belongs to these settings and data."""
    if not isinstance(found.extra, dict) or not {"epochs", "history"} & found.extra.keys():
        raise ValueError(f"{found.path} is a checkpoint, but of no run: name another folder")
    was, saved = found.extra.get("facts", found.extra), dict(found.config or {})
    now = config.model_dump(exclude=MAY_CHANGE)
    pairs = [(key, was[key], value) for key, value in facts.items() if key in was]
    # A key that the run's own version did not have yet is at its default.
    pairs += [(key, saved.get(key, type(config).model_fields[key].default), value) for key, value in now.items()]
    if changed := [f"{key} was {_short(a)} and is {_short(b)}" for key, a, b in pairs if _plain(a) != _plain(b)]:
        raise ValueError(
            f"{found.path} is another run: {', '.join(changed)}. Give the settings and the data it was begun with, or "
            "begin anew (--overwrite)"
        )


def open_checkpoint(folder: str | Path, command: str) -> Checkpoint:
    """The checkpoint of a run to predict with: the best epoch, or the last where none was chosen; or the file named.

    Raises:
        FileNotFoundError: there is none; ``command`` makes one.
        ValueError: it is broken.
    """
    path = Path(folder)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST) if (path / name).exists()), path / LAST)
    if not path.exists():
        raise FileNotFoundError(f"there is no run {folder}: train one with {command}, or name the folder of another")
    return checkpoint.load(path)


def take_card(run: str | Path, folder: str | Path) -> None:
    """Put a copy of the card of a run, where it has one, into a folder that its weights were written to."""
    path = Path(run)
    source = (path if path.is_dir() else path.parent) / CARD
    if source.exists():
        with atomic_write(Path(folder) / CARD, "w") as file:
            file.write(source.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return text if len(text := repr(value)) < 120 else f"{text[:40]}... ({len(text)} characters)"

"""The files of a run: what was trained and all that rebuilds the rest, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from course_utils.data.news import LABELS
from course_utils.news.config import Config
from course_utils.news.model import Built, build
from course_utils.training import checkpoint

BEST, LAST = "best.safetensors", "last.safetensors"
MAY_CHANGE = {"resume", "overwrite", "output", "patience", "processes"}  # when a run is resumed


def save_run(built: Built, config: Config, path: Path, **more: Any) -> None:
    """Write what was trained with all that is needed to rebuild it; ``more`` as for ``training.checkpoint.save``."""
    extra = {"labels": list(LABELS), "base": built.base, **more.pop("extra", {})}
    checkpoint.save(path, model=built.trained(), config=config.model_dump(), extra=extra, **more)


def load_run(built: Built, path: Path, **parts: Any) -> checkpoint.Checkpoint:
    """Fill the trained parameters in; ``parts`` (optimizer, ...) as for ``training.checkpoint.load``.

    Raises:
        ValueError: the file is broken, of another base or other labels, or lacks a single parameter.
    """
    found = checkpoint.load(path)
    extra = found.extra if isinstance(found.extra, dict) else {}
    if extra.get("labels") != list(LABELS):
        raise ValueError(f"{path} was trained for other labels than these 18: it is no run of this project")
    if extra.get("base") != built.base:
        was = dict(found.config or {}).get("base")
        raise ValueError(
            f"{path} was trained on {was}, and this base has other weights: give the one it was trained on"
        )
    return checkpoint.load(path, model=built.trained(), **parts)


def open_run(folder: str | Path, **changes: Any) -> tuple[Config, Built]:
    """A trained run, ready to predict: the best epoch of a run's folder, or the checkpoint named.

    Args:
        changes: keys to change, such as ``base`` if the checkpoint it was trained on lies elsewhere now.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its checkpoint is broken, or does not fit the base.
    """
    path = Path(folder)
    path = path / BEST if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"there is no run {folder}: train one with python -m course_utils.news.main, or name the folder of another"
        )
    config = Config.checked({**(checkpoint.load(path).config or {}), **changes}, str(path))
    built = build(config)
    load_run(built, path)
    built.model.eval()
    return config, built


def check_folder(config: Config) -> None:
    """Refuse to lose a run, and to resume none."""
    last = config.folder / LAST
    if config.resume and not last.exists():
        raise FileNotFoundError(f"there is nothing to resume: no {last}; leave out resume to begin")
    if not config.resume and not config.overwrite and last.exists():
        raise ValueError(
            f"{config.folder} holds a run already: resume it (--resume), replace it (--overwrite), or choose another "
            "folder (--output)"
        )


def resume(config: Config, built: Built, **parts: Any) -> list[dict[str, float]]:
    """Put model, optimizer, ... back to where the run stopped; the history so far.

    Raises:
        ValueError: settings changed that would make it another run.
    """
    last = config.folder / LAST
    saved = checkpoint.load(last).config or {}
    now = config.model_dump()
    changed = [key for key in now if key not in MAY_CHANGE and now[key] != saved.get(key)]
    if changed:
        what = ", ".join(f"{key} was {saved.get(key)!r} and is {now[key]!r}" for key in changed)
        raise ValueError(
            f"{last} cannot go on with other settings: {what}. Give the old ones, or begin anew (--overwrite)"
        )
    return list(load_run(built, last, **parts).extra["history"])

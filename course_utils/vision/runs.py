"""The files of a run from scratch: one checkpoint that is whole at any moment, and what may go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from course_utils.data import Images
from course_utils.models import ViT
from course_utils.training import checkpoint
from course_utils.vision.assembly import build_model
from course_utils.vision.recipes import FromScratch

LAST, HISTORY = "last.safetensors", "history.json"
# What may differ when a run is resumed. The number of processes too: no batch depends on it.
MAY_CHANGE = {"resume", "overwrite", "output", "processes", "save_every", "data_dir", "download"}


def check_folder(config: FromScratch) -> None:
    """Refuse to lose a run, and to resume none.

    Raises:
        FileNotFoundError: there is nothing to resume.  ValueError: there is a run already.
    """
    if config.folder is None:
        return
    last = config.folder / LAST
    if config.resume and not last.exists():
        raise FileNotFoundError(f"there is nothing to resume: no {last}; leave out resume to begin")
    if not config.resume and not config.overwrite and last.exists():
        raise ValueError(
            f"{config.folder} holds a run already: resume it (--resume), replace it (--overwrite), or choose another "
            "folder (--output)"
        )


def facts(images: Images, precision: str) -> dict[str, Any]:
    """What a run depends on besides its recipe."""
    shape = list(images.x.shape[1:])
    return {"classes": len(images.classes), "shape": shape, "images": len(images), "precision": precision}


def check_same_run(path: Path, config: FromScratch, now: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the checkpoint belongs to this recipe and these images."""
    found = checkpoint.load(path)
    was, recipe = _facts_of(found, path), dict(found.config or {})
    if was["classes"] != now["classes"]:
        raise ValueError(f"{path} was trained for {was['classes']} classes, these images have {now['classes']}")
    if was["shape"] != now["shape"]:
        sizes = [f"{s[1]} x {s[2]} pixels and {s[0]} channels" for s in (was["shape"], now["shape"])]
        raise ValueError(f"{path} was trained on images of {sizes[0]}, these have {sizes[1]}")
    if was["images"] != now["images"]:
        raise ValueError(
            f"{path} was trained on {was['images']:,} images, here are {now['images']:,}: give it the same ones"
        )
    if was["precision"] != now["precision"]:
        raise ValueError(
            f"{path} was trained in {was['precision']}, and this machine would go on in {now['precision']}: "
            f"say --precision {was['precision']}"
        )
    given = config.model_dump()
    changed = [
        f"{key} was {recipe.get(key)!r} and is {value!r}"
        for key, value in given.items()
        if key not in MAY_CHANGE and _plain(recipe.get(key)) != _plain(value)
    ]
    if changed:
        raise ValueError(f"{path} is another run: {'; '.join(changed)}. Give the settings it was begun with")


def open_run(folder: str | Path) -> tuple[FromScratch, ViT]:
    """A run's recipe and its model as it is evaluated (the averaged weights, if it keeps them), ready to predict.

    Raises:
        FileNotFoundError: there is no run.  ValueError: its checkpoint is broken.
    """
    path = Path(folder)
    path = path / LAST if path.is_dir() else path
    found = checkpoint.load(path)
    was = _facts_of(found, path)
    config = FromScratch.checked(dict(found.config), str(path))
    channels, height, width = was["shape"]
    model = build_model(config, (channels, height, width), was["classes"])
    if found.extra["averaged"] is None:
        checkpoint.load(path, model=model)
    else:
        averaged = AveragedModel(model)
        averaged.load_state_dict(found.extra["averaged"])
        model.load_state_dict(averaged.module.state_dict())
    return config, model.eval()


def averaging(model: torch.nn.Module, share: float, steps: int) -> AveragedModel | None:
    """A running mean of the weights, ``mean += (weights - mean) / n`` after each step; None if ``share`` is 0.

    It looks back over about n steps, the given share of the run's. A fixed n that suits one run spoils a shorter one:
    its mean still holds weights from the run's middle.
    """
    if not share:
        return None
    decay = 1 - 1 / max(1.0, share * steps)
    return AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))


def _facts_of(found: checkpoint.Checkpoint, path: Path) -> dict[str, Any]:
    if not isinstance(found.extra, dict) or "facts" not in found.extra:
        raise ValueError(f"{path} is a checkpoint, but none of course_utils.vision.train_ddp: name another folder")
    return dict(found.extra["facts"])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

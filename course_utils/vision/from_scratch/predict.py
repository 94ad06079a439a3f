"""Label image files with a model that was trained from scratch.

python -m course_utils.vision.from_scratch.predict --run output/from_scratch photo.png --top 3
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from course_utils.models import ViT
from course_utils.training.folder import facts_of, open_checkpoint
from course_utils.vision.from_scratch.config import FromScratch
from course_utils.vision.from_scratch.data import load_data
from course_utils.vision.from_scratch.model import build_model
from course_utils.vision.label import Labeller, label_files


def open_run(folder: str | Path) -> tuple[FromScratch, ViT]:
    """A run's recipe and its model as it is evaluated (the best epoch's, or averaged, weights), ready to predict.

    Raises:
        FileNotFoundError: there is no run.  ValueError: its checkpoint is broken.
    """
    config, model, _ = _open(folder)
    return config, model


def labeller(folder: str | Path) -> Labeller:
    """What labels images as this run's own: resized, and normalised with its training images' statistics."""
    config, model, facts = _open(folder)
    if "names" not in facts:  # written by an older version
        images = load_data(config).train
        facts |= {"names": images.classes, "statistics": images.mean_and_std}
    mean, std = (torch.as_tensor(values) for values in facts["statistics"])
    return Labeller(model, tuple(facts["names"]), tuple(facts["shape"]), (mean, std), config.image_size)


def _open(folder: str | Path) -> tuple[FromScratch, ViT, dict[str, Any]]:
    found = open_checkpoint(folder, "python -m course_utils.vision.from_scratch.train")
    facts = facts_of(found, "shape")
    config = FromScratch.checked(dict(found.config), str(found.path))
    model = build_model(config, tuple(facts["shape"]), facts["classes"])
    if found.extra.get("averaged") is None:
        found.restore(model)
    else:
        averaged = AveragedModel(model)
        averaged.load_state_dict(found.extra["averaged"])
        model.load_state_dict(averaged.module.state_dict())
    return config, model.eval(), facts


def main(words: list[str] | None = None) -> None:
    """The command line."""
    label_files(labeller, "output/from_scratch", words)


if __name__ == "__main__":
    main()

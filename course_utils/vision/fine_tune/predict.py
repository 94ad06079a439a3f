"""Label image files with a fine-tuned model.

python -m course_utils.vision.fine_tune.predict --run output/vision photo.png --top 3
"""

from __future__ import annotations

from pathlib import Path

import torch

from course_utils.training.checkpoint import parameters_named
from course_utils.training.folder import facts_of, open_checkpoint
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.model import Classifier, build, prepare
from course_utils.vision.label import Labeller, label_files


def open_run(folder: str | Path) -> tuple[Classifier, tuple[str, ...]]:
    """The model of a run, ready to predict, and the names of its classes.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its file is broken, or the base has changed since.
    """
    found = open_checkpoint(folder, "python -m course_utils.vision.fine_tune.train")
    classes = tuple(facts_of(found, "classes")["classes"])
    config = FineTune.checked(found.config, str(found.path))
    model = build(config, len(classes))
    prepare(model, config)
    found.restore(parameters_named(model, {name for name, p in model.named_parameters() if p.requires_grad}))
    return model.eval(), classes


def labeller(folder: str | Path) -> Labeller:
    """What labels images as this run's own: brought to the model's size, with its base's statistics."""
    model, classes = open_run(folder)
    mean, std = (torch.tensor(values) for values in model.statistics)
    return Labeller(model, classes, (model.channels, *model.image_size), (mean, std))


def main(words: list[str] | None = None) -> None:
    """The command line."""
    label_files(labeller, "output/vision", words)


if __name__ == "__main__":
    main()

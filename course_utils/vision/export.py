"""A run's model as a folder that transformers or timm opens, with the same logits.

    python -m course_utils.vision.export output/vision --to shared --library timm
    python -m course_utils.vision.export output/from_scratch --to shared

Which project the run belongs to, its checkpoint says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from course_utils.models.vit import ViT
from course_utils.models.writing import Library, Statistics, save_vit
from course_utils.training.folder import open_checkpoint, take_card
from course_utils.tuning import merge, tuned_layers, unload
from course_utils.vision.fine_tune import predict as fine_tune
from course_utils.vision.from_scratch import predict as from_scratch


def export(run: str | Path, folder: str | Path, library: Library = "transformers") -> Path:
    """Write the model of a run, what was tuned merged into its base.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the library's model does not compute what this one does; or the run's model is that library's own.
        OSError: the folder cannot be written.
    """
    model, labels, statistics = _opened(run)
    if not isinstance(model, ViT):
        raise ValueError(f"the run trained a {type(model).__name__} of another library: save it with that library")
    if tuned_layers(model):
        merge(model)
        unload(model)
    written = save_vit(model, folder, library, labels, statistics)
    take_card(run, written)
    return written


def _opened(run: str | Path) -> tuple[Any, Sequence[str], Statistics]:
    said = open_checkpoint(run, "python -m course_utils.vision.fine_tune.train").config or {}
    if "tactic" in said:
        model, labels = fine_tune.open_run(run)
        return model.model, labels, model.statistics
    labeller = from_scratch.labeller(run)
    mean, std = labeller.statistics
    return labeller.model, labeller.classes, (mean.tolist(), std.tolist())


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a run's model as transformers or timm opens it.")
    parser.add_argument("run", nargs="?", default="output/vision", help="a run's folder, or a checkpoint")
    parser.add_argument("--to", required=True, help="the folder to write")
    parser.add_argument("--library", choices=get_args(Library), default="transformers")
    options = parser.parse_args(words)
    try:
        print(f"written: {export(options.run, options.to, options.library)}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

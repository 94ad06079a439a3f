"""Label image files with a trained model: what the ``predict`` of both projects does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.data import Images, batches
from course_utils.data.own_images import read_picture


@dataclass(frozen=True)
class Labeller:
    """A model with all that it needs to see an image as it saw those it learned from.

    Args:
        model: ready to predict.
        classes: their names.
        shape: channels, height and width that images are brought to.
        statistics: mean and deviation of each channel, ``[C]`` each, of pixels from 0 to 1.
        size: pixels they are enlarged to after that, if the model wants it.
    """

    model: nn.Module
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    statistics: tuple[Tensor, Tensor]
    size: int | tuple[int, int] | None = None

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Images, uint8 ``[N, C, H, W]``, to probabilities ``[N, classes]``: the softmax of the logits."""
        images = Images(x, torch.zeros(len(x), dtype=torch.long), self.classes, "files", self.statistics)
        return torch.cat([self.model(x).softmax(-1) for x, _ in batches(images, 64, size=self.size)])

    def read(self, path: str | Path) -> Tensor:
        """A picture file as uint8 ``[C, H, W]``. Raises ``OSError`` for what is none."""
        channels, height, width = self.shape
        return torch.from_numpy(read_picture(path, channels, (height, width)).copy())


def label_files(open_labeller: Callable[[str], Labeller], run: str, words: list[str] | None) -> None:
    """The command line of a project's ``predict``."""
    parser = argparse.ArgumentParser(description="Label image files with a run's model.")
    parser.add_argument("files", nargs="+", help="pictures of any size")
    parser.add_argument("--run", default=run, help=f"a run's folder, or a checkpoint (default: {run})")
    parser.add_argument("--top", type=int, default=1, help="how many labels to name for each picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(words)
    try:
        labeller = open_labeller(options.run)
        if not 1 <= options.top <= len(labeller.classes):
            raise ValueError(f"top is {options.top}, expected 1 to {len(labeller.classes)}, the number of classes")
        best = labeller(torch.stack([labeller.read(file) for file in options.files])).topk(options.top)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for file, shares, numbers in zip(options.files, best.values.tolist(), best.indices.tolist(), strict=True):
        labels = dict(zip((labeller.classes[i] for i in numbers), shares, strict=True))
        told = " ".join(f"{label} {share:.3f}" for label, share in labels.items())
        print(json.dumps({"file": file, "labels": labels}, ensure_ascii=False) if options.json else f"{told}\t{file}")

"""How good a run is: accuracy and its interval, macro-F1, a table by label, and the confusions.

python -m course_utils.news.evaluate [output/lora] [--data FILE] [--picture confusion.png] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from course_utils.data.news import LABELS, LABELS_ENGLISH, SPLITS, load_titles
from course_utils.news.data import Encoded, encode
from course_utils.news.model import TitleModel
from course_utils.news.predict import logits, open_run
from course_utils.news.titles import Part, part_of_run

RESAMPLES = 2000
MOST_NAMES = 60  # of labels that a picture has room for


@dataclass(frozen=True)
class Report:
    """What a set of answers is worth; shares from 0 to 1.

    Args:
        titles: how many there were.
        accuracy: share of right answers.
        interval: 95 % of the accuracies of sets drawn from this one, with replacement, lie in it.
        macro_f1: mean over the labels of F1, so that a rare label counts as much as a common one.
        majority: accuracy of always answering the commonest label.
        by_label: precision, recall, F1 and number of titles of each label; a label that nobody has or answers scores 0.
        confusion: ``[labels][labels]`` counts: row the label, column the answer.
        data: what the titles are called.
    """

    titles: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    majority: float
    by_label: dict[str, dict[str, float]]
    confusion: list[list[int]]
    data: str = ""

    def __str__(self) -> str:
        low, high = self.interval
        widest = max(8, *(_columns(label) + 2 for label in self.by_label))
        lines = [f"{'label':<{widest}}{'precision':>11}{'recall':>9}{'F1':>8}{'titles':>9}"]
        for label, row in self.by_label.items():
            values = f"{row['precision']:>11.3f}{row['recall']:>9.3f}{row['f1']:>8.3f}{row['titles']:>9.0f}"
            lines.append(label + " " * (widest - _columns(label)) + values)
        lines += [
            f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), macro-F1 {self.macro_f1:.3f}, "
            f"{self.titles} titles{f' ({self.data})' if self.data else ''}",
            f"majority {self.majority:.3f}: always the commonest label",
        ]
        return "\n".join(lines)


def report(labels: Tensor, answers: Tensor, *, names: Sequence[str] = LABELS, data: str = "", seed: int = 0) -> Report:
    """Compare ``[titles]`` labels with ``[titles]`` answers, both the places of labels among ``names``.

    Args:
        data: what the titles are called.

    Raises:
        ValueError: there are none, or not equally many of both.
    """
    if not len(labels) or labels.shape != answers.shape:
        shapes = f"{list(labels.shape)} labels and {list(answers.shape)} answers"
        raise ValueError(f"{shapes}: give at least one title, and one answer for each")
    numbers = np.arange(len(names))
    y, guess = labels.numpy(), answers.numpy()
    parts = precision_recall_fscore_support(y, guess, labels=numbers, zero_division=0)
    right = y == guess
    draws = np.random.default_rng(seed).integers(len(right), size=(RESAMPLES, len(right)))
    low, high = np.quantile(right[draws].mean(1), [0.025, 0.975])
    rows = zip(*parts, strict=True)
    return Report(
        titles=len(right),
        accuracy=float(right.mean()),
        interval=(float(low), float(high)),
        macro_f1=float(parts[2][parts[3] > 0].mean()),
        majority=float(np.bincount(y).max() / len(y)),
        by_label={
            label: dict(zip(("precision", "recall", "f1", "titles"), map(float, row), strict=True))
            for label, row in zip(names, rows, strict=True)
        },
        confusion=confusion_matrix(y, guess, labels=numbers).tolist(),
        data=data,
    )


def evaluate(model: TitleModel, data: Encoded, batch_size: int = 64) -> Report:
    """The report of a model on labelled titles of the 18 labels."""
    return report(data.labels, logits(model, data, batch_size).argmax(-1))


def check_picture(path: str | Path) -> None:
    """Raise before the work is done, where the picture could not be written after it.

    Raises:
        ValueError: matplotlib writes no such kind of picture.
        OSError: its folder is not there or may not be written to.
    """
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(f"the picture {path} is of no kind that can be written: end its name in .png, .svg or .pdf")
    folder = Path(path).resolve().parent
    if not os.access(folder, os.W_OK):
        raise OSError(f"the picture {path} cannot be written: make the folder {folder}, or choose another")


def picture(found: Report, path: str | Path) -> None:
    """Draw the confusions to a file; the kind (png, svg, pdf) is told by its name. The right answers, on the diagonal,
    are left white: what is left are the mistakes."""
    from matplotlib.figure import Figure  # the object-oriented door: no window, no global state

    counts = np.array(found.confusion, dtype=float)
    np.fill_diagonal(counts, np.nan)
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.add_subplot(xlabel="answered", ylabel="label", title=f"{int(np.nansum(counts))} mistakes")
    image = axes.imshow(counts, cmap="Blues", vmin=0)
    if len(names := _drawable(tuple(found.by_label))) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, label="titles")
    figure.savefig(path)


def _columns(text: str) -> int:
    """How wide a text is in a terminal, where a Chinese character takes two columns."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _drawable(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels for a figure: few fonts of a fresh machine can draw Chinese, so a label that is not ASCII stands as its
    number, in the order of the table."""
    if labels == LABELS:
        return LABELS_ENGLISH
    return tuple(label[:20] if label.isascii() else str(number) for number, label in enumerate(labels))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Score a run on labelled titles.")
    parser.add_argument("run", nargs="?", default="output/lora", help="a run's folder, or a checkpoint")
    parser.add_argument("--data", default="test", help="a file, or a part of the run's own titles (default: test)")
    parser.add_argument("--text-field", help="what the file calls its texts, if not as the run's files do")
    parser.add_argument("--label-field", help="what the file calls its labels")
    parser.add_argument("--base", help="where the base lies now, if it was moved since")
    parser.add_argument("--picture", help="a file for the picture of confusions, such as confusion.png")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    options = parser.parse_args(arguments)
    try:
        if options.picture:
            check_picture(options.picture)
        config, built = open_run(options.run, **({"base": options.base} if options.base else {}))
        if options.data in SPLITS:
            folder = Path(options.run)
            part = part_of_run(options.data, config, folder if folder.is_dir() else folder.parent, built.labels)
        else:
            fields = {name: getattr(options, name) or getattr(config, name) for name in ("text_field", "label_field")}
            part = Part(load_titles(options.data, built.labels, **fields), Path(options.data).name)
        data = encode(part.titles, built.tokenizer, built.pad, built.labels)
        found = report(data.labels, logits(built.model, data).argmax(-1), names=built.labels, data=part.name)
        if options.picture:
            picture(found, options.picture)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(asdict(found), ensure_ascii=False) if options.json else found)


if __name__ == "__main__":
    main()

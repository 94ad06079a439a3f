"""Label titles: from arguments, a file with one title a line, or standard input.

python -m course_utils.news.predict "补时绝平，门将头球破门" --top 3
python -m course_utils.news.predict --run output/head --file titles.txt --json
cat titles.txt | python -m course_utils.news.predict
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_utils.data.news import Title
from course_utils.data.text_files import check_text, decoded, read_text
from course_utils.news.config import Config
from course_utils.news.data import Encoded, encode, in_order
from course_utils.news.model import Built, TitleModel, build
from course_utils.training.checkpoint import Checkpoint
from course_utils.training.folder import facts_of, open_checkpoint


def open_run(folder: str | Path, **changes: Any) -> tuple[Config, Built]:
    """A trained run, ready to predict: the best epoch of a run's folder, or the checkpoint named.

    Args:
        changes: keys to change, such as ``base`` if the checkpoint it was trained on lies elsewhere now.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its checkpoint is broken, or does not fit the base.
    """
    found = open_checkpoint(folder, "python -m course_utils.news.train")
    config = Config.checked({**(found.config or {}), **changes}, str(found.path))
    built = build(config, labels_of_run(found))
    fill(built, found)
    built.model.eval()
    return config, built


def fill(built: Built, found: Checkpoint) -> None:
    """Put the trained parameters in.

    Raises:
        ValueError: the file is of another base or other labels, or lacks a single parameter.
    """
    facts = facts_of(found, "base")
    if facts.get("labels") != list(built.labels):
        raise ValueError(
            f"{found.path} was trained for other labels than this model: build it with the labels it holds"
        )
    if facts["base"] != built.base:
        was = dict(found.config or {}).get("base")
        raise ValueError(
            f"{found.path} was trained on {was}, and this base has other weights: give the one it was trained on"
        )
    found.restore(built.trained())


def labels_of_run(found: Checkpoint) -> tuple[str, ...]:
    """The labels that a run was trained for. Raises ``ValueError`` for a checkpoint of no run of this project."""
    labels = facts_of(found, "base").get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{found.path} says no labels: it is no run of this project")
    return tuple(labels)


@dataclass(frozen=True)
class Prediction:
    """A title and its labels, the most probable first.

    The probabilities are the softmax of the logits: what the model says, not how often it is right.
    """

    title: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[0]


@torch.inference_mode()
def logits(model: TitleModel, data: Encoded, batch_size: int = 64) -> Tensor:
    """The model's logits for all titles in their order, ``[titles, labels]``, with dropout off meanwhile."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return torch.cat([model(x.to(device)).float().cpu() for x, _ in in_order(data, batch_size)])
    finally:
        model.train(was_training)


def predict(built: Built, titles: Sequence[str], top: int = 1) -> list[Prediction]:
    """The ``top`` labels of each title, with probabilities.

    Raises:
        ValueError: no titles, an empty one, or a ``top`` outside 1 to the number of labels.
    """
    labels = built.labels
    if not 1 <= top <= len(labels):
        raise ValueError(f"top is {top}, expected 1 to {len(labels)}, the number of labels")
    if isinstance(titles, str):
        raise ValueError(f"titles is the text {titles[:20]!r}: give a list of titles, such as [title]")
    if not titles:
        raise ValueError("there is no title to label: give some as arguments, in a file, or on standard input")
    for number, title in enumerate(titles, start=1):
        if not isinstance(title, str):
            raise ValueError(f"title {number} is {title!r}, expected a text: write it or leave it out")
        try:
            check_text(title)
        except ValueError as fault:
            raise ValueError(f"title {number} {fault}") from None
    unlabelled = [Title(labels[0], title.strip()) for title in titles]  # any label will do
    data = encode(unlabelled, built.tokenizer, built.pad, labels)
    best = logits(built.model, data).softmax(-1).topk(top)
    return [
        Prediction(title.strip(), tuple(labels[i] for i in numbers), tuple(shares))
        for title, numbers, shares in zip(titles, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def read_titles(file: Path | None) -> list[str]:
    """The lines of a file, or of standard input, that are not blank."""
    if file is None:
        text = decoded(sys.stdin.buffer.read(), "standard input")
    elif not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: check the path")
    else:
        text = read_text(file)
    return [line.strip() for line in text.split("\n") if line.strip()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Label titles with a run's labels.")
    parser.add_argument("titles", nargs="*", help="titles; without any, lines of --file or of standard input")
    parser.add_argument("--file", type=Path, help="a text with one title a line")
    parser.add_argument("--run", default="output/lora", help="a run's folder, or a checkpoint")
    parser.add_argument("--base", help="where the base lies now, if it was moved since")
    parser.add_argument("--top", type=int, default=1, help="how many labels to name for each title")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    try:
        if options.titles and options.file:
            raise ValueError("titles came as arguments and in --file: choose one of them")
        titles = options.titles or read_titles(options.file)
        _, built = open_run(options.run, **({"base": options.base} if options.base else {}))
        found = predict(built, titles, options.top)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for each in found:
        shares = dict(zip(each.labels, each.probabilities, strict=True))
        if options.json:
            print(json.dumps({"title": each.title, "labels": shares}, ensure_ascii=False))
        else:
            print(" ".join(f"{label} {share:.3f}" for label, share in shares.items()), each.title, sep="\t")


if __name__ == "__main__":
    main()

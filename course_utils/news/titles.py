"""The titles of a run: those it trains on, those that choose, those that judge, and what each of them is called.

The embedded headlines come in three parts. A file of one's own is one part; what no other file is given for is held out
of it, by label and by a seed, and written beside the run. Embedded titles never stand in for those of a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from course_utils.data.news import LABELS, SPLITS, Title, labels_of, load_titles
from course_utils.data.splits import rare, stratified
from course_utils.news.config import Config

HELD = {"validation": 0.1, "test": 0.2}  # of all titles of a file, as of the embedded ones
FEW = 3  # a label with fewer titles to train on is told: it may be a slip

log = logging.getLogger("course_utils.data")


@dataclass(frozen=True)
class Part:
    """Some titles, and where they come from: no number of theirs is told without it."""

    titles: list[Title]
    name: str

    def __len__(self) -> int:
        return len(self.titles)

    def __str__(self) -> str:
        digest = hashlib.sha256(self.lines().encode()).hexdigest()[:8]
        return f"{self.name} ({len(self):,} titles, SHA-256 {digest})"

    def lines(self) -> str:
        """The titles as JSON Lines."""
        rows = ({"tag": title.tag, "title": title.title} for title in self.titles)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True)
class TitleSet:
    """The three parts of a run, and the labels of all of them in the order of the model's outputs.

    Args:
        drawn: whether a part was held out of the file to train on, so that this file alone does not tell the parts.
    """

    train: Part
    validation: Part
    test: Part
    labels: tuple[str, ...]
    drawn: bool

    def names(self) -> dict[str, str]:
        """What a run says of its data."""
        return {name: str(getattr(self, name)) for name in SPLITS}

    def files(self) -> dict[str, str]:
        """What is to lie beside the run, where parts were drawn: a file of JSON Lines for each."""
        return {file_name(name): getattr(self, name).lines() for name in SPLITS} if self.drawn else {}


def file_name(split: str) -> str:
    """What the file of a part that was drawn is called, in the folder of its run."""
    return f"{split}.jsonl"


def title_set(config: Config) -> TitleSet:
    """The titles of a configuration.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is broken, has too few titles, or a label that the titles to train on have not.
    """
    own = config.train not in SPLITS
    fields = {"text_field": config.text_field, "label_field": config.label_field}
    rest = load_titles(config.train, None if own else LABELS, **fields)
    labels = labels_of(rest) if own else LABELS
    if len(labels) < 2:
        raise ValueError(f"{config.train} holds the label {labels[0]!r} alone: there is nothing to tell apart")
    held, drawn = dict[str, Part](), False
    whole = len(rest)
    for name in ("test", "validation"):
        source = getattr(config, name)
        if own and source in SPLITS:
            if source != name:
                raise ValueError(f"{name} is {source!r}, a part of the embedded titles: give a file, or leave it out")
            held[name], rest = _held_out(rest, whole, name, config)
            drawn = True
        elif source in SPLITS:
            held[name] = Part(load_titles(source), f"the embedded {source} titles")
        else:
            held[name] = Part(load_titles(source, labels, **fields), Path(source).name)
    name = Path(config.train).name if own else f"the embedded {config.train} titles"
    train = Part(_cut(rest, config), f"the rest of {name}" if drawn else name)
    if own:
        _tell_labels(train)
    for each in held.values():
        _tell_leak(train, each)
    return TitleSet(train, held["validation"], held["test"], labels, drawn)


def part_of_run(name: str, config: Config, folder: Path, labels: tuple[str, ...]) -> Part:
    """A part of a run that was made: as it lies beside it, or read again from where it came.

    Raises:
        FileNotFoundError: it is not there any more.
        ValueError: it is broken, or holds other labels than the run's.
    """
    own, source = config.train not in SPLITS, getattr(config, name)
    written = folder / file_name(name)
    if own and written.exists():
        return Part(load_titles(written, labels), f"the {name} part of {Path(config.train).name}")
    if own and source in SPLITS:
        raise FileNotFoundError(
            f"the {name} titles of this run were held out of {config.train} and are not in {folder}: name a file"
        )
    if source in SPLITS:
        return Part(load_titles(source, labels), f"the embedded {source} titles")
    fields = {"text_field": config.text_field, "label_field": config.label_field}
    return Part(load_titles(source, labels, **fields), Path(source).name)


def _held_out(titles: list[Title], whole: int, name: str, config: Config) -> tuple[Part, list[Title]]:
    """The share of a part, and what is left."""
    texts, tags = [title.title for title in titles], [title.tag for title in titles]
    wanted = round(HELD[name] * whole)
    drawn = set(stratified(texts, tags, wanted, config.split_seed)) if wanted <= len(titles) else set[int]()
    if not drawn:
        raise ValueError(
            f"{config.train} holds {whole:,} titles, too few to hold {HELD[name]:.0%} out for {name}: give more, or "
            f"a file of its own (--{name} FILE)"
        )
    part = Part([titles[row] for row in sorted(drawn)], f"{HELD[name]:.0%} of {Path(config.train).name}, held out")
    return part, [title for row, title in enumerate(titles) if row not in drawn]


def _cut(titles: list[Title], config: Config) -> list[Title]:
    """As many titles as are asked for, of each label its share."""
    if config.titles is None:
        return titles
    if config.titles > len(titles):
        raise ValueError(
            f"titles is {config.titles:,}, but {config.train} holds {len(titles):,} to train on: choose fewer, or "
            "leave the key out"
        )
    if config.train in SPLITS:  # they stand in the order of their hashes: the first ones are a fair sample
        return titles[: config.titles]
    texts, tags = [title.title for title in titles], [title.tag for title in titles]
    if config.titles < (labels := len(set(tags))):
        raise ValueError(f"titles is {config.titles:,}, fewer than the {labels:,} labels: choose one for each, or more")
    without = set(stratified(texts, tags, len(titles) - config.titles, config.split_seed))  # leaves one of each label
    return [title for row, title in enumerate(titles) if row not in without]


def _tell_labels(train: Part) -> None:
    counts = Counter(title.tag for title in train.titles)
    shown = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(12))
    log.info("%d labels: %s%s", len(counts), shown, ", ..." if len(counts) > 12 else "")
    if few := rare((title.tag for title in train.titles), FEW):
        some = ", ".join(list(few)[:5])
        log.warning(
            "%s: %d labels have fewer than %d titles to train on (%s%s): a slip, or too few to learn from",
            *(train.name, len(few), FEW, some, ", ..." if len(few) > 5 else ""),
        )


def _tell_leak(train: Part, held: Part) -> None:
    """Titles that are learned by heart say nothing of others."""
    seen = {title.title for title in train.titles}
    if both := sum(title.title in seen for title in held.titles):
        log.warning("%d of the %d titles of %s are also trained on", both, len(held), held.name)

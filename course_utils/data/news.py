"""Titles with a label each: the embedded headlines with one of 18, or a file of one's own with any.

A row is a title and its label, such as ``{"tag": "体育", "title": "补时第97分钟，门将顶进扳平球"}``, or any other form
of :mod:`course_utils.data.rows`; other fields (a ``content``, an ``id``) are allowed and not read. Spaces around both
are removed. Blank lines are skipped and still counted, so that a line number in a message is the one an editor
shows. Everything else is an error: a set of which a tenth was dropped in silence gives an accuracy of something else.

Nothing here knows of tokens: a title is text.
"""

from __future__ import annotations

import hashlib
import logging
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from course_utils.data.rows import Row, read_rows
from course_utils.data.text_files import shortened

LABELS = (
    "家居", "房产", "股票", "社会", "文化", "国际", "教育", "军事", "彩票",
    "旅游", "体育", "科技", "汽车", "健康", "娱乐", "财经", "时尚", "游戏",
)  # fmt: skip
"""The labels in the order of their indices, 0 to 17."""

LABELS_ENGLISH = (
    "home", "real estate", "stocks", "society", "culture", "international", "education", "military", "lottery",
    "travel", "sports", "technology", "cars", "health", "entertainment", "finance", "fashion", "games",
)  # fmt: skip
"""The same in English, for figures: few fonts of a fresh machine can draw Chinese."""

SPLITS = ("train", "validation", "test")

_INDEX = {tag: index for index, tag in enumerate(LABELS)}
# Of 2,000 salts tried, this one divides the labels most evenly; it was chosen before any model was trained.
_SALT = "1381"

log = logging.getLogger("course_utils.data")


@dataclass(frozen=True)
class Title:
    """One headline: its label as a word, and its text."""

    tag: str
    title: str

    @property
    def label(self) -> int:
        """The index of the label among :data:`LABELS`, 0 to 17."""
        return label_to_index(self.tag)


@dataclass(frozen=True)
class TitleStatistics:
    """What a set of titles looks like; lengths are in characters."""

    count: int
    per_label: dict[str, int]
    shortest: int
    median: float
    mean: float
    longest: int
    share_cut: float
    """The share of titles that lose characters when only :attr:`room` characters fit."""
    room: int

    @property
    def majority(self) -> float:
        """The accuracy of always answering the commonest label: what any model has to beat."""
        return max(self.per_label.values()) / self.count


def label_to_index(tag: str) -> int:
    """The index of a label, 0 to 17. Raises ``ValueError`` for a word that is none of :data:`LABELS`."""
    if tag not in _INDEX:
        raise ValueError(f"{tag!r} is no label: use one of {' '.join(LABELS)}")
    return _INDEX[tag]


def index_to_label(index: int) -> str:
    """The label of an index. Raises ``ValueError`` outside 0 to 17 (a negative index is not counted from the end)."""
    if not 0 <= index < len(LABELS):
        raise ValueError(f"{index} is no label's index: the {len(LABELS)} labels have 0 to {len(LABELS) - 1}")
    return LABELS[index]


def load_titles(
    source: str | Path,
    labels: Collection[str] | None = LABELS,
    *,
    text_field: str | None = None,
    label_field: str | None = None,
) -> list[Title]:
    """The titles of an embedded split, or of a file, in its order.

    Args:
        source: ``"train"``, ``"validation"`` or ``"test"`` for the embedded headlines; anything else is a path, such as
            ``train_tag_news.json``, of any form that :mod:`course_utils.data.rows` reads. (For a file that is called
            ``train``, write ``./train``.)
        labels: those that may stand in it; None: any.
        text_field, label_field: what the fields are called, or the numbers of columns; by default known names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no text, is empty, or holds a row that is not one title with one label, both with
            something to read in them. The message names the file, the line, what was found and the mend.

    A title that stands with two labels is only logged as a warning: of a set in which people disagree, it is the truth.
    """
    file: Traversable | Path
    if source in SPLITS:
        file = resources.files("course_utils.data") / "embedded" / f"news_{source}.jsonl"
    else:
        file = Path(source)
        if file.is_dir():
            raise ValueError(f"{file} is a folder: give one of its files, such as {file / 'train_tag_news.json'}")
        if not file.exists():
            raise FileNotFoundError(
                f"there is no file {file}: check the path, or give {', '.join(map(repr, SPLITS))} (embedded titles)"
            )
    rows = read_rows(file, text_field, label_field)
    _check_labels(file, rows, labels)
    _tell_contradictions(file, rows)
    return [Title(row.label, row.text) for row in rows]


def labels_of(titles: Iterable[Title]) -> tuple[str, ...]:
    """The labels of a set in the order of their indices: as :data:`LABELS` has them, numbers by their size, others by
    the alphabet of Unicode."""
    found = {title.tag for title in titles}
    if found <= set(LABELS):
        return tuple(label for label in LABELS if label in found)
    numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
    return tuple(sorted(found, key=lambda label: (int(label) if numbers else 0, label)))


def describe_titles(titles: Iterable[Title], room: int = 18) -> TitleStatistics:
    """Counts and lengths. ``room`` is what a model sees: 20 tokens, [CLS] and [SEP] among them, hold 18 characters.

    Raises ``ValueError`` for no titles at all.
    """
    titles = list(titles)
    if not titles:
        raise ValueError("there are no titles to describe: give a list from load_titles")
    lengths = [len(title.title) for title in titles]
    counts = Counter(title.tag for title in titles)
    return TitleStatistics(
        count=len(titles),
        per_label={tag: counts[tag] for tag in (LABELS if counts.keys() <= set(LABELS) else sorted(counts))},
        shortest=min(lengths),
        median=statistics.median(lengths),
        mean=statistics.fmean(lengths),
        longest=max(lengths),
        share_cut=sum(length > room for length in lengths) / len(lengths),
        room=room,
    )


def fingerprint(title: str) -> bytes:
    """The hash that places an embedded title. Spaces, punctuation and character width do not count: mending them moves
    nothing."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", title)).lower()
    return hashlib.sha256((_SALT + letters).encode()).digest()


def split_of(title: str) -> str:
    """The embedded split a title belongs to: 70 % train, 10 % validation, 20 % test.

    The title alone decides, by its hash, so that a new headline moves no other, and none can be moved to where a model
    does better.
    """
    share = int.from_bytes(fingerprint(title)[:8], "big") / 2**64  # uniform in [0, 1)
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


def _check_labels(file: Traversable | Path, rows: Sequence[Row], labels: Collection[str] | None) -> None:
    """Only those that may stand there; and no two that look the same and are not."""
    known = {_seen(label): label for label in labels or ()}
    faults = []
    for row in rows:
        if labels is None:
            known.setdefault(_seen(row.label), row.label)
        elif row.label in labels:
            continue
        looks_like = known.get(_seen(row.label))
        if looks_like == row.label:
            continue
        if looks_like is not None:  # a radical from a PDF, a character of no width
            codes = shortened(" ".join(f"U+{ord(c):04X}" for c in row.label))
            fault = f"the tag {codes} looks like {looks_like} and is not: write {looks_like}"
        else:
            some = " ".join(list(labels or ())[:20]) + (" ..." if len(labels or ()) > 20 else "")
            fault = f"unknown tag {shortened(row.label)!r}: write one of {some}, or remove the line"
        faults.append(f"{file}, line {row.line}: {fault}")
    if faults:
        others = f" ({len(faults) - 1} more lines of this file are wrong)" if len(faults) > 1 else ""
        raise ValueError(faults[0] + others)


def _seen(label: str) -> str:
    """What a reader sees of a label."""
    return unicodedata.normalize("NFKC", "".join(c for c in label if unicodedata.category(c) != "Cf"))


def _tell_contradictions(file: Traversable | Path, rows: Sequence[Row]) -> None:
    """Titles that stand with two labels: no model gets both right."""
    first: dict[str, Row] = {}
    pairs = [(before, row) for row in rows if (before := first.setdefault(row.text, row)).label != row.label]
    if pairs:
        before, row = pairs[0]
        log.warning(
            "%s: %d titles stand with two labels, first in lines %d and %d (%s and %s): %s",
            *(file, len(pairs), before.line, row.line, before.label, row.label, row.text),
        )

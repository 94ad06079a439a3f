"""News titles with one of 18 labels: the embedded headlines, or any JSON Lines file of the same form.

A line is one object, such as ``{"tag": "体育", "title": "补时第97分钟，门将冲进禁区顶进扳平球"}``; other fields (a
``content``, an ``id``) are allowed and not read. Spaces around a tag or a title are removed. Blank lines are skipped
and still counted, so that a line number in a message is the one an editor shows. Everything else that is not such an
object is an error: a set of which a tenth was dropped in silence gives an accuracy of something else.

Nothing here knows of tokens: a title is text, and a label is a whole number from 0 to 17.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

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
_BYTE_ORDER_MARKS = {  # -> encoding, and the command that mends the file
    b"\xef\xbb\xbf": ("UTF-8", "tail -c +4 FILE > NEW"),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > NEW"),
}
# Of 2,000 salts tried, this one divides the labels most evenly; it was chosen before any model was trained.
_SALT = "1381"


@dataclass(frozen=True)
class Title:
    """One headline: its label as a word, one of :data:`LABELS`, and its text."""

    tag: str
    title: str

    @property
    def label(self) -> int:
        """The index of the label, 0 to 17."""
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


def load_titles(source: str | Path) -> list[Title]:
    """The titles of an embedded split, or of a JSON Lines file, in the order of its lines.

    Args:
        source: ``"train"``, ``"validation"`` or ``"test"`` for the embedded headlines; anything else is a path, such as
            ``train_tag_news.json``. (For a file that is called ``train``, write ``./train``.)

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, is empty, or holds a line that is not an object with a known ``tag`` and a
            non-empty ``title``. The message names the file, the line, what was found and the mend.
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
    titles, faults = [], []
    # Not str.splitlines: it also breaks at U+2028 and U+0085, which may stand inside a JSON string.
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if line.strip():
            try:
                titles.append(_parsed(line))
            except ValueError as fault:
                faults.append(f"{file}, line {number}: {fault}")
    if faults:
        others = f" ({len(faults) - 1} more lines of this file are wrong)" if len(faults) > 1 else ""
        raise ValueError(faults[0] + others)
    if not titles:
        raise ValueError(
            f'{file} holds no title: write one object a line, such as {{"tag": "体育", "title": "..."}}, '
            "or download the file again"
        )
    return titles


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
        per_label={tag: counts[tag] for tag in LABELS},
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


def _decoded(file: Traversable | Path) -> str:
    content = file.read_bytes()
    for mark, (encoding, command) in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            raise ValueError(
                f"{file}, line 1: the file begins with the byte-order mark {mark.hex(' ')} of {encoding}, expected "
                f"UTF-8 without a mark: save it so, or convert it with {command}"
            )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"{file}, line {line}: the byte {content[error.start]:#04x} is not UTF-8"
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        raise ValueError(f"{found}, and the file is not GBK either: it is damaged or no text; fetch it again") from None
    raise ValueError(f"{found}; the file reads as GBK: convert it with iconv -f GB18030 -t UTF-8 FILE > NEW")


def _parsed(line: str) -> Title:
    """One line as a title. Raises ``ValueError`` with what was found and the mend, without file and line number."""
    expected = 'expected {"tag": "...", "title": "..."}'
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        mend = "write one complete object on each line"
        if line.lstrip().startswith("["):
            mend = "the file is one JSON array: write its objects one a line, without brackets and commas between them"
        elif line.lstrip().startswith("{'"):
            mend = "JSON has double quotes: write the line with json.dumps(..., ensure_ascii=False)"
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}), {expected}, found {_short(line)}: {mend}"
        ) from None
    except RecursionError:
        raise ValueError(f"too deeply nested to read, {expected}: write one flat object on each line") from None
    if not isinstance(record, dict):
        kind = "a JSON array" if isinstance(record, list) else f"the JSON value {_short(line)}"
        raise ValueError(f"{kind}, {expected}: write one object on each line")
    for field in ("tag", "title"):
        if field not in record:
            fields = ", ".join(map(repr, record)) or "none"
            raise ValueError(f"the field {field!r} is missing (found {fields}): {expected}; rename or add the field")
        value = record[field]
        if not isinstance(value, str):
            shown = _short(json.dumps(value, ensure_ascii=False))
            raise ValueError(f"the field {field!r} is {shown}, expected a text in double quotes")
        if not value.strip():
            raise ValueError(f"the field {field!r} is empty: write it, or remove the line")
    tag, title = record["tag"].strip(), record["title"].strip()
    if tag not in _INDEX:
        raise ValueError(f"unknown tag {_short(tag)!r}: write one of {' '.join(LABELS)}, or remove the line")
    return Title(tag, title)


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:39] + "…"

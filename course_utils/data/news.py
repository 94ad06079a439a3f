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
import logging
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
_BEGINNINGS = {  # of files that are not plain UTF-8 -> what they are, and the command that mends them
    b"\xef\xbb\xbf": ("the byte-order mark of UTF-8", "tail -c +4 FILE > NEW"),
    b"\xff\xfe\0\0": ("the byte-order mark of UTF-32", "iconv -f UTF-32 -t UTF-8 FILE > NEW"),
    b"\xff\xfe": ("the byte-order mark of UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\xfe\xff": ("the byte-order mark of UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\x1f\x8b": ("as gzip does", "gunzip -c FILE > NEW"),
    b"PK\x03\x04": ("as a zip archive or an Excel sheet does", "unzip FILE, or export the sheet"),
}
_UNREADABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")  # controls, halves of pairs
_INVISIBLE = {"Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"}  # categories of Unicode that show nothing by themselves
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
# Of 2,000 salts tried, this one divides the labels most evenly; it was chosen before any model was trained.
_SALT = "1381"

log = logging.getLogger("course_utils.data")


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
        ValueError: the file is not UTF-8, is empty, or holds a line that is not an object with one known ``tag`` and
            one ``title`` in which there is something to read. The message names the file, the line, what was found and
            the mend.

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
    found: dict[int, Title] = {}  # by the number of the line
    faults = []
    # Not str.splitlines: it also breaks at U+2028 and U+0085, which may stand inside a JSON string.
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if line.strip():
            try:
                found[number] = _parsed(line)
            except ValueError as fault:
                faults.append(f"{file}, line {number}: {fault}")
    if faults:
        others = f" ({len(faults) - 1} more lines of this file are wrong)" if len(faults) > 1 else ""
        raise ValueError(faults[0] + others)
    if not found:
        raise ValueError(
            f'{file} holds no title: write one object a line, such as {{"tag": "体育", "title": "..."}}, '
            "or download the file again"
        )
    _tell_contradictions(file, found)
    return list(found.values())


def check_text(text: str) -> None:
    """Raise ``ValueError``, which says what and where, for a text in which there is something that no model can read.

    That is half of a surrogate pair, a control character other than white space, or nothing that can be seen.
    """
    if bad := _UNREADABLE.search(text):
        code = ord(bad[0])
        half = "half of a surrogate pair" if code >= 0xD800 else "a control character"
        mend = f"{half}: remove it, or write it anew"
        if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that it could not decode
            mend = f"the byte {code - 0xDC00:#04x}, which is not UTF-8: convert the text, for GBK with iconv -f GB18030"
        raise ValueError(f"holds U+{code:04X} as character {bad.start() + 1}, {mend}")
    if all(c in _BLANK_LETTERS or unicodedata.category(c) in _INVISIBLE for c in text):
        held = sorted({f"U+{ord(c):04X}" for c in text.strip()})
        raise ValueError(
            f"is empty{f' (only {_short(chr(32).join(held))})' if held else ''}: write it, or remove the line"
        )


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
    for beginning, (what, command) in _BEGINNINGS.items():
        if content.startswith(beginning):
            raise ValueError(
                f"{file}, line 1: the file begins with {beginning.hex(' ')}, {what}, expected UTF-8 without a mark: "
                f"save it so, or convert it with {command}"
            )
    if b"\0" in content:  # no text holds it in UTF-8
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        for encoding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"):
            text = content.decode(encoding, errors="ignore")
            if "\0" not in text and {'"', "\n"} & set(text):  # with bytes in the wrong order these are other characters
                raise ValueError(
                    f"{file}, line {line}: the file is {encoding} without a mark, expected UTF-8: convert it with "
                    f"iconv -f {encoding} -t UTF-8 FILE > NEW"
                )
        raise ValueError(f"{file}, line {line}: there are NUL bytes: the file is damaged or no text; fetch it again")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"{file}, line {line}: the byte {content[error.start]:#04x} is not UTF-8"
    sample = content.decode("utf-8", errors="replace")
    if (wrong := sample.count("\ufffd")) < sum(c > "\x7f" for c in sample) - wrong:
        raise ValueError(f"{found}, though the rest is: the line is damaged or comes from another file; write it anew")
    if _is_gbk(content):
        raise ValueError(f"{found}; the file reads as GBK: convert it with iconv -f GB18030 -t UTF-8 FILE > NEW")
    raise ValueError(
        f"{found}, and the file is not GBK either: it is of another encoding, damaged or no text; open it in an editor "
        "that names the encoding and save it as UTF-8, or fetch it again"
    )


def _is_gbk(content: bytes) -> bool:
    """Whether the bytes are common Chinese characters in GBK. That they can be decoded says little: most bytes can."""
    try:
        characters = [c for c in content.decode("gb18030") if c > "\x7f"]
    except UnicodeDecodeError:
        return False
    # In GB 2312 the 3,755 characters that texts are made of begin with the bytes B0 to D7.
    common = sum(0xB0 <= c.encode("gb2312", "replace")[0] <= 0xD7 for c in characters)
    return common > len(characters) / 2


def _parsed(line: str) -> Title:
    """One line as a title. Raises ``ValueError`` with what was found and the mend, without file and line number."""
    expected = 'expected {"tag": "...", "title": "..."}'
    try:
        pairs = json.loads(line, object_pairs_hook=tuple)
    except ValueError as error:
        if line.startswith("\ufeff"):
            raise ValueError(
                "a byte-order mark stands before the line, as where files were joined: remove it"
            ) from None
        mend = "write one complete object on each line"
        if line.lstrip().startswith("["):
            mend = "the file is one JSON array: write its objects one a line, without brackets and commas between them"
        elif line.lstrip().startswith("{'"):
            mend = "JSON has double quotes: write the line with json.dumps(..., ensure_ascii=False)"
        elif "control character" in str(error):
            mend = "remove it, or write it as json.dumps does"
        elif "\r" in line.strip():
            mend = r"lines end with CR alone: convert the file with tr '\r' '\n' < FILE > NEW"
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ValueError(f"not JSON ({why}), {expected}, found {_short(line)}: {mend}") from None
    except RecursionError:
        raise ValueError(f"too deeply nested to read, {expected}: write one flat object on each line") from None
    if not isinstance(pairs, tuple):
        kind = "a JSON array" if isinstance(pairs, list) else f"the JSON value {_short(line)}"
        raise ValueError(f"{kind}, {expected}: write one object on each line")
    tag, title = (_text_of(pairs, field).strip() for field in ("tag", "title"))
    if tag not in _INDEX:
        seen = unicodedata.normalize("NFKC", "".join(c for c in tag if unicodedata.category(c) != "Cf"))
        if seen in _INDEX:  # a radical from a PDF, a character of no width
            codes = " ".join(f"U+{ord(c):04X}" for c in tag)
            raise ValueError(f"the tag {_short(codes)} looks like {seen} and is not: write {seen}")
        raise ValueError(f"unknown tag {_short(tag)!r}: write one of {' '.join(LABELS)}, or remove the line")
    return Title(tag, title)


def _text_of(pairs: tuple[tuple[str, object], ...], field: str) -> str:
    """The text of a field of a JSON object that was read as pairs, so that one that stands twice can be seen."""
    values = [value for key, value in pairs if key == field]
    if not values:
        fields = _short(", ".join(repr(key) for key, _ in pairs)) or "none"
        raise ValueError(f"the field {field!r} is missing (found {fields}): rename or add the field")
    if len(values) > 1:
        raise ValueError(f"the field {field!r} stands {len(values)} times: keep one of them, or make two lines")
    if not isinstance(values[0], str):
        shown = "an object" if isinstance(values[0], tuple) else _short(json.dumps(values[0], ensure_ascii=False))
        raise ValueError(f"the field {field!r} is {shown}, expected a text in double quotes")
    try:
        check_text(values[0])
    except ValueError as fault:
        raise ValueError(f"the field {field!r} {fault}") from None
    return values[0]


def _tell_contradictions(file: Traversable | Path, found: dict[int, Title]) -> None:
    """Titles that stand with two labels: no model gets both right."""
    first: dict[str, int] = {}
    pairs = [
        (before, number)
        for number, title in found.items()
        if found[before := first.setdefault(title.title, number)].tag != title.tag
    ]
    if pairs:
        log.warning(
            "%s: %d titles stand with two labels, first in lines %d and %d (%s): %s",
            *(file, len(pairs), *pairs[0], " and ".join(found[n].tag for n in pairs[0]), found[pairs[0][0]].title),
        )


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:39] + "…"

"""Labelled texts out of any of the files that people keep them in, each with the line it stands in.

=========================  =============================================================================
JSON Lines                 ``{"tag": "体育", "title": "..."}``, one object a line; other fields are not read
JSON                       one array of such objects
CSV                        a header line; commas or semicolons; quotes as spreadsheets write them
TSV, ``text<TAB>label``    with or without a header line; a quotation mark is a character like any other
=========================  =============================================================================

The content decides, not the name of the file: what begins with ``{`` or ``[`` is JSON. Fields that are called otherwise
than :data:`TEXT_FIELDS` and :data:`LABEL_FIELDS` are named by the caller; columns without a name by their number,
``"1"`` and up. Nothing is dropped: one line that does not fit refuses the file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any

from course_utils.data.text_files import check_text, read_text, shortened

TEXT_FIELDS = ("title", "text", "sentence")  # what a text is called, if nobody says it; the first that there is
LABEL_FIELDS = ("tag", "label", "category")
EXPECTED = 'expected {"tag": "...", "title": "..."}'
MANY = 10  # lines that tell a header from a row
Pairs = tuple[tuple[str, object], ...]  # an object as it was read, so that a field that stands twice can be seen


@dataclass(frozen=True)
class Row:
    """A labelled text, and the number of the line that it begins in, from 1."""

    line: int
    text: str
    label: str


def read_rows(file: Traversable | Path, text_field: str | None = None, label_field: str | None = None) -> list[Row]:
    """All rows of a file, in its order.

    Args:
        text_field, label_field: what the fields are called, or the numbers of columns; by default known names.

    Raises:
        OSError: the file cannot be read.
        ValueError: the first line that is no such row, with what was found and the mend; and how many more there are.
    """
    text = read_text(file)
    content = text.lstrip()
    fields = (text_field, label_field)
    if content.startswith("["):
        found = _Fields(fields).rows(_array(text, file))
    elif content.startswith("{") or not _is_table(content, Path(str(file)).name, fields):
        found = _Fields(fields).rows(_lines(text))
    else:
        found = _table(text, file, fields)
    rows, faults = list[Row](), list[str]()
    for line, row in found:
        if isinstance(row, Row):
            rows.append(row)
        else:
            faults.append(f"{file}, line {line}: {row}")
    if faults:
        others = f" ({len(faults) - 1} more lines of this file are wrong)" if len(faults) > 1 else ""
        raise ValueError(faults[0] + others)
    if not rows:
        raise ValueError(
            f'{file} holds no title: write one object a line, such as {{"tag": "体育", "title": "..."}}, or '
            "title<TAB>label, or download the file again"
        )
    return rows


Checked = Iterator[tuple[int, Row | str]]  # line, and the row or what is wrong with it


class _Fields:
    """What the two fields of a file are called: what the caller said, or the first known name in its first object."""

    def __init__(self, said: tuple[str | None, str | None]) -> None:
        self.said = said
        self.names: tuple[str, str] | None = None

    def rows(self, objects: Iterator[tuple[int, object]]) -> Checked:
        """Each object as a row; what is no object says why not."""
        for line, pairs in objects:
            try:
                if isinstance(pairs, ValueError):
                    raise pairs
                yield line, self._row(line, pairs)
            except ValueError as fault:
                yield line, str(fault)

    def _row(self, line: int, pairs: object) -> Row:
        if not isinstance(pairs, tuple):
            kind = "a JSON array" if isinstance(pairs, list) else f"the JSON value {_json(pairs)}"
            raise ValueError(f"{kind}, {EXPECTED}: write one object on each line")
        if self.names is None:
            self.names = _chosen(self.said, [key for key, _ in pairs])
        text_name, label_name = self.names
        label = _value(pairs, label_name, numbers=True).strip()
        return Row(line, _value(pairs, text_name).strip(), label)


def _chosen(said: tuple[str | None, str | None], there: Sequence[str]) -> tuple[str, str]:
    text, label = (
        name or next((each for each in known if each in there), known[0])
        for name, known in zip(said, (TEXT_FIELDS, LABEL_FIELDS), strict=True)
    )
    return text, label


def _value(pairs: Pairs, field: str, *, numbers: bool = False) -> str:
    """The text of a field; where ``numbers`` may stand in it, those too, as they are written."""
    values = [value for key, value in pairs if key == field]
    if not values:
        fields = shortened(", ".join(repr(key) for key, _ in pairs)) or "none"
        raise ValueError(
            f"the field {field!r} is missing (found {fields}): rename or add the field, or say what it is called with "
            "--text-field and --label-field"
        )
    if len(values) > 1:
        raise ValueError(f"the field {field!r} stands {len(values)} times: keep one of them, or make two lines")
    value = values[0]
    if numbers and type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"the field {field!r} is {_json(value)}, expected a text in double quotes")
    try:
        check_text(value)
    except ValueError as fault:
        raise ValueError(f"the field {field!r} {fault}") from None
    return value


def _json(value: object) -> str:
    return "an object" if isinstance(value, tuple) else shortened(json.dumps(value, ensure_ascii=False))


# ---- JSON --------------------------------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[tuple[int, object]]:
    """The objects of JSON Lines; blank lines are skipped, and counted."""
    # Not str.splitlines: it also breaks at U+2028 and U+0085, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line, object_pairs_hook=tuple)
            except ValueError as error:
                yield number, _no_json(line, error)
            except RecursionError:
                yield number, ValueError(f"too deeply nested to read, {EXPECTED}: write one flat object on each line")


def _no_json(line: str, error: ValueError) -> ValueError:
    if line.startswith("\ufeff"):
        return ValueError("a byte-order mark stands before the line, as where files were joined: remove it")
    mend = "write one complete object on each line"
    if line.lstrip().startswith("{'"):
        mend = "JSON has double quotes: write the line with json.dumps(..., ensure_ascii=False)"
    elif "control character" in str(error):
        mend = "remove it, or write it as json.dumps does"
    elif "\r" in line.strip():
        mend = r"lines end with CR alone: convert the file with tr '\r' '\n' < FILE > NEW"
    why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return ValueError(f"not JSON ({why}), {EXPECTED}, found {shortened(line)}: {mend}")


def _array(text: str, file: Traversable | Path) -> Iterator[tuple[int, object]]:
    """The elements of one JSON array, each with the line that it begins in."""
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    place, counted, line = text.index("[") + 1, 0, 1
    while True:
        while text[place : place + 1].isspace():
            place += 1
        if text[place : place + 1] == "]" and not text[place + 1 :].strip():
            return
        line, counted = line + text.count("\n", counted, place), place
        try:
            element, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{file}, line {line}: the JSON array breaks off or is no JSON here, found "
                f"{shortened(text[place : place + 50])!r} ({type(error).__name__}): write it with json.dump, or one "
                "object on each line without brackets and commas between them"
            ) from None
        yield line, element
        while text[place : place + 1].isspace():
            place += 1
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            raise ValueError(
                f"{file}, line {line}: a comma or ] is missing behind this object: write the array with json.dump"
            )


# ---- tables ------------------------------------------------------------------------------------------------------


def _is_table(content: str, name: str, said: tuple[str | None, str | None]) -> bool:
    """A file that is called so; or one whose first line is divided by a tab."""
    suffixes = {suffix.lower() for suffix in Path(name).suffixes}
    return bool(suffixes & {".csv", ".tsv", ".txt"} or "\t" in content.partition("\n")[0] or all(map(_number, said)))


def _number(field: str | None) -> bool:
    return field is not None and field.isdecimal() and int(field) > 0


def _table(text: str, file: Traversable | Path, said: tuple[str | None, str | None]) -> Checked:
    """The rows of CSV, or of lines divided by tabs."""
    first = text.lstrip("\r\n").partition("\n")[0]
    mark = "\t" if "\t" in first else max(",;", key=first.count)
    records = _records(text, mark, file)
    begin = next(records, None)
    if begin is None:
        return
    header = [name.strip() for name in begin[1]]
    body: Iterator[tuple[int, list[str]]]
    if all(map(_number, said)):
        columns, body = [int(str(field)) - 1 for field in said], chain([begin], records)
    elif set(names := _chosen(said, header)) <= set(header):
        columns, body = [header.index(name) for name in names], records
        if double := [name for name in names if header.count(name) > 1]:
            raise ValueError(f"{file}, line {begin[0]}: two columns are called {double[0]!r}: rename one of them")
    elif mark == "\t" and len(header) == 2 and said == (None, None):
        columns, body = [0, 1], iter(_without_header([begin, *records], file))
    else:
        missing = next(name for name in names if name not in header)
        raise ValueError(
            f"{file}, line {begin[0]}: there is no column {missing!r} (found {shortened(', '.join(header))}): say what "
            "the columns are called with --text-field and --label-field, or give their numbers where there is no header"
        )
    for line, record in body:
        if len(record) != len(header):
            yield line, f"{len(record)} columns where the first line has {len(header)}: write one row on each line"
            continue
        if max(columns) >= len(record):
            yield line, f"there is no column {max(columns) + 1}: the line has {len(record)}"
            continue
        text_value, label = (record[column].strip() for column in columns)
        yield line, _fault({"text": text_value, "label": label}) or Row(line, text_value, label)


def _fault(values: dict[str, str]) -> str | None:
    """What cannot be read in the values of a record, if anything."""
    for what, value in values.items():
        try:
            check_text(value)
        except ValueError as fault:
            return f"the {what} {fault}"
    return None


def _records(text: str, mark: str, file: Traversable | Path) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line it begins in."""
    if mark == "\t":
        for number, content in enumerate(text.split("\n"), start=1):
            if content.strip():
                yield number, content.rstrip("\r").split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    line = 1
    while True:
        try:
            record: Any = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{file}, line {line}: no CSV ({error}): close the quotation mark, or write the file with a program "
                "that writes CSV"
            ) from None
        if any(value.strip() for value in record):
            yield line, record
        line = reader.line_num + 1


def _without_header(records: list[tuple[int, list[str]]], file: Traversable | Path) -> list[tuple[int, list[str]]]:
    """Rows of ``text<TAB>label``; refused, where the first may be a header or the columns may be exchanged."""
    pairs = [record for _, record in records if len(record) == 2]
    labels = [label.strip() for _, label in pairs]
    mend = "say which columns these are, with --text-field and --label-field: their names or their numbers, 1 or 2"
    if len(set(labels)) > len({text for text, _ in pairs}):
        raise ValueError(f"{file}: the second column, where labels are expected, is the one that varies more: {mend}")
    line, first = records[0]
    if len(pairs) >= MANY and len(first) == 2 and labels.count(first[1].strip()) == 1:
        raise ValueError(
            f"{file}, line {line}: {shortened(first[1])!r} is the label of no other line, so this may be a header or a "
            f"title: {mend}"
        )
    return records

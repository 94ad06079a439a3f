"""Labelled texts out of any file: the same rows from each form, fields by any name, one wrong line refuses the file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from course_utils.data.news import LABELS, Title, labels_of, load_titles
from course_utils.data.rows import Row, read_rows

ROWS = [("It works, and well", "good"), ('He said "no"', "bad"), ("没什么可说", "so-so"), ("Again; and again", "good")]
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str, name: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return tmp_path / name

    return write


def table(rows: list[tuple[str, str]], names: tuple[str, str] = ("text", "label"), **style: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, **style).writerows([names, *rows])
    return stream.getvalue()


FORMS = {
    "a.jsonl": "".join(json.dumps({"text": t, "label": n, "id": 3}) + "\n" for t, n in ROWS),
    "b.json": json.dumps([{"label": n, "text": t} for t, n in ROWS], ensure_ascii=False, indent=2),
    "c.json": json.dumps([{"label": n, "text": t} for t, n in ROWS]),
    "d.csv": table(ROWS),
    "e.csv": table(ROWS, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "f.tsv": "text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in ROWS),
    "g.txt": "".join(f"{t}\t{n}\r\n" for t, n in ROWS),
    "h": "\n" + "\n\n".join(f"{t}\t{n}" for t, n in ROWS),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_from_every_form(written: Written, name: str) -> None:
    assert [(row.text, row.label) for row in read_rows(written(FORMS[name], name))] == ROWS


@pytest.mark.parametrize(
    ("name", "lines"),
    [("a.jsonl", [1, 2, 3, 4]), ("b.json", [2, 6, 10, 14]), ("c.json", [1] * 4), ("d.csv", [2, 3, 4, 5]),
     ("g.txt", [1, 2, 3, 4]), ("h", [2, 4, 6, 8])],
)  # fmt: skip
def test_each_row_knows_the_line_that_an_editor_shows(written: Written, name: str, lines: list[int]) -> None:
    assert [row.line for row in read_rows(written(FORMS[name], name))] == lines


def test_a_quoted_line_break_is_one_row_of_csv(written: Written) -> None:
    file = written('label,text\ngood,"two\nlines"\nbad,one\n', "a.csv")
    assert read_rows(file) == [Row(2, "two\nlines", "good"), Row(4, "one", "bad")]


def test_labels_may_be_whole_numbers(written: Written) -> None:
    lines = [json.dumps({"title": f"t{n}", "tag": n}) for n in (10, 9, 0, -1)]
    titles = load_titles(written("\n".join(lines), "a.jsonl"), None)
    assert [title.tag for title in titles] == ["10", "9", "0", "-1"]
    assert labels_of(titles) == ("-1", "0", "9", "10")
    assert labels_of([Title("b", ""), Title("10", ""), Title("9", "")]) == ("10", "9", "b")
    assert labels_of([Title("游戏", ""), Title("家居", "")]) == ("家居", "游戏")
    assert labels_of(load_titles("train")) == LABELS


def test_fields_of_any_name(written: Written) -> None:
    pairs = ("review", "stars")
    tab = table(ROWS, pairs)
    for name, text in (
        ("a.jsonl", "\n".join(json.dumps(dict(zip(pairs, row, strict=True))) for row in ROWS)),
        ("b.csv", tab),
        ("c.tsv", "review\tstars\n" + "".join(f"{t}\t{n}\n" for t, n in ROWS)),
    ):
        file = written(text, name)
        assert [(r.text, r.label) for r in read_rows(file, *pairs)] == ROWS, name
        with pytest.raises(ValueError, match=r"--text-field and --label-field"):
            read_rows(file, "body", "stars")
    swapped = written("".join(f"{n}\tx\t{t}\n" for t, n in ROWS), "d.txt")
    assert [(r.text, r.label) for r in read_rows(swapped, "3", "1")] == ROWS


def test_a_known_name_is_chosen_once_for_the_file(written: Written) -> None:
    """The first row's names hold for all; a later row that has others is not read as if nothing were."""
    file = written('{"title": "a", "label": "x"}\n{"text": "b", "label": "x"}\n', "a.jsonl")
    with pytest.raises(ValueError, match=r"line 2: the field 'title' is missing"):
        read_rows(file)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '[\n{"text": "a", "label": "x"},\n{"text": "b"\n]', "line 3: the JSON array breaks off"),
        ("a.json", '[{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}]', "a comma or ] is missing"),
        ("a.json", '[{"text": "a", "label": "x"}', "a comma or ] is missing"),
        ("a.json", "[]", "holds no title"),
        ("a.json", '[{"text": "a", "label": "x"},\n["b"]]', "line 2: a JSON array"),
        ("a.json", "[" * 10_000, "the JSON array breaks off"),
        ("a.csv", 'text,label\n"a,x\n', "line 2: no CSV"),
        ("a.csv", "text,label\na,x,y\nb\n", "line 2: 3 columns where the first line has 2: write one row on each line "
         "(1 more lines"),
        ("a.csv", "text,label,label\na,x,y\n", "two columns are called 'label'"),
        ("a.csv", "a,x\nb,y\n", "line 1: there is no column 'title' (found a, x)"),
        ("a.csv", "text,label\na,\n", "line 2: the label is empty"),
        ("a.csv", "text,label\n,x\n", "line 2: the text is empty"),
        ("a.txt", "".join(f"x{i % 2}\ta title {i}\n" for i in range(9)), "the second column, where labels are"),
        ("a.txt", "review\tstars\n" + "".join(f"t{i}\t{i % 2}\n" for i in range(9)), "line 1: 'stars' is the label of"),
        ("a.txt", "only titles\nand more\n", "line 1: there is no column 'title' (found only titles)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_line(written: Written, name: str, text: str, words: str) -> None:
    file = written(text, name)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_rows(file)
    assert str(caught.value).startswith(str(file))


def test_two_labels_that_look_the_same_are_refused(written: Written) -> None:
    """A full-width letter or a character of no width would make a label of its own, with few titles."""
    file = written("a\tgood\nb\tbad\nc\tｇood\n", "a.txt")
    with pytest.raises(ValueError, match=r"line 3: the tag U\+FF47 .* looks like good and is not: write good"):
        load_titles(file, None)

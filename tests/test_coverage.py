"""The chapters teach what they own, and the corrections are shown by code."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.contents import CHAPTERS
from tools.coverage import chapter_titles, corrections_page, coverage_page, load_claims, places, problems

CLAIMS = """\
items:
  S9-1: {chapter: bits, phrase: "Bits"}
  S9-2: {chapter: bits, phrase: "Bytes | words"}
  S9-3: {chapter: bytes, phrase: "Not written yet"}
corrections:
  E9-1: {chapter: bits, items: [S9-1], said: "A bit is a byte.", right: "It is an eighth of one."}
"""


def test_chapters_cover_and_show_what_they_own() -> None:
    found = problems(load_claims(), places(CHAPTERS), [chapter.stem for chapter in CHAPTERS])
    assert not found, "\n".join(found)


def test_what_the_course_owes_is_listed_in_full() -> None:
    """Nobody makes a gap vanish by deleting its row."""
    claims = load_claims()
    assert {f"S0-{n}" for n in range(1, 167)} | {f"S1-{n}" for n in range(1, 103)} == set(claims.items)
    assert {f"E0-{n}" for n in range(1, 83)} | {f"E1-{n}" for n in range(1, 44)} == set(claims.corrections)


def notebook(folder: Path, *cells: nbformat.NotebookNode) -> list[Path]:
    nbformat.write(new_notebook(cells=list(cells)), folder / "bits.ipynb")
    (folder / "claims.yml").write_text(CLAIMS, "utf8")
    return [folder / "bits.ipynb"]


def covers(*ids: str) -> nbformat.NotebookNode:
    return new_markdown_cell("Text.", metadata={"course": {"covers": list(ids)}})


def shows(*ids: str) -> nbformat.NotebookNode:
    return new_code_cell("1 + 1", metadata={"course": {"shows": list(ids)}})


def hidden(*ids: str) -> nbformat.NotebookNode:
    return new_code_cell("1 + 1", metadata={"course": {"shows": list(ids)}, "tags": ["remove-cell"]})


TITLE = new_markdown_cell("# Bits\n\n## The `bit`\n\n### Again\n\n### Again\n\n#### Too deep for an address")


def told(*ids: str) -> nbformat.NotebookNode:
    return new_markdown_cell("No, no.", metadata={"course": {"shows": list(ids)}})


def test_a_gap_is_named(tmp_path: Path) -> None:
    """Each in one sentence, with the item's name and, where an id is wrong, the cell that has it."""
    whole = covers("S9-1", "S9-2")
    for cells, words in (
        ([covers("S9-1"), shows("E9-1")], ["S9-2", "Bytes | words"]),
        ([whole], ["E9-1"]),
        ([whole, told("E9-1")], ["E9-1", "code cell"]),
        ([whole, hidden("E9-1")], ["E9-1", "code cell"]),
        ([covers("S9-1", "S9-2", "S9-99"), shows("E9-1")], ["bits.ipynb, cell 2", "S9-99"]),
        ([covers("S9-1", "S9-2", "E9-1"), shows("E9-1")], ["bits.ipynb, cell 2", "E9-1", "corrections"]),
    ):
        books = notebook(tmp_path, TITLE, *cells)
        (sentence,) = problems(load_claims(tmp_path / "claims.yml"), places(books), ["bits"])
        assert all(word in sentence for word in words), (words, sentence)


def test_a_chapter_that_is_not_written_owes_nothing(tmp_path: Path) -> None:
    books = notebook(tmp_path, TITLE, covers("S9-1", "S9-2"), shows("E9-1"))
    claims = load_claims(tmp_path / "claims.yml")
    assert problems(claims, places(books), ["bits"]) == []
    (sentence,) = problems(claims, places(books), ["bits", "bytes"])
    assert "S9-3" in sentence


def test_pages_link_to_the_nearest_heading_above_the_cell(tmp_path: Path) -> None:
    books = notebook(tmp_path, covers("S9-1"), TITLE, covers("S9-2"), shows("E9-1"))
    claims, found = load_claims(tmp_path / "claims.yml"), places(books)
    assert [(place.id, place.slug) for place in found] == [("S9-1", ""), ("S9-2", "again-1"), ("E9-1", "again-1")]
    titles = chapter_titles(books)
    assert titles == {"bits": "Bits"}
    coverage = coverage_page(claims, found, titles)
    assert "| S9-2 | Bytes \\| words | [Again](../notebooks/bits.ipynb#again-1) |" in coverage
    assert "Not written yet" not in coverage, "a chapter that does not exist has no place on the page"
    assert (
        ": It is an eighth of one.\n  *Shown in:* [Again](../notebooks/bits.ipynb#again-1) (E9-1)"
        in corrections_page(claims, found, titles)
    )


def test_a_slip_in_the_list_is_named(tmp_path: Path) -> None:
    for old, new, words in (('phrase: "Bits"', 'words: "Bits"', "S9-1.*words"), ("[S9-1]", "[S9-77]", "E9-1.*S9-77")):
        (tmp_path / "claims.yml").write_text(CLAIMS.replace(old, new), "utf8")
        with pytest.raises(ValueError, match=words):
            load_claims(tmp_path / "claims.yml")

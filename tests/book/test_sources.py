"""What the book is made of: its table of contents, its settings, its citations and foreign files."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from tools import book, contents, pages
from tools.contents import CHAPTERS, ROOT

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))


def entries(node: Any) -> list[str]:
    """The files and globs that a table of contents names, in order."""
    if isinstance(node, list):
        return [name for one in node for name in entries(one)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file", "glob") if key in node]
    return own + [name for key in ("parts", "chapters", "sections") for name in entries(node.get(key))]


def test_every_chapter_is_in_the_table_of_contents_and_nothing_else_is() -> None:
    listed = [name for name in entries(TOC) if name.startswith("notebooks/")]
    expected = []
    for chapter in CHAPTERS:
        exercises = f"notebooks/exercises/{chapter.stem}"
        expected += [f"notebooks/{chapter.stem}"] + ([exercises] if (ROOT / f"{exercises}.ipynb").is_file() else [])
    assert listed == expected, "_toc.yml and notebooks/ must agree"


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {name for name in entries(TOC) if name.startswith("book/") and "*" not in name}
    written = {f"book/{page.stem}" for page in (ROOT / "book").glob("*.md")}
    made = {f"book/{name.removesuffix('.md')}" for name in ("coverage.md", "corrections.md", "last_run.md")}
    assert not listed - written - made, "the table of contents names pages that are not there"
    waiting = {name for name in written if name.startswith("book/part_")}  # openers of parts still without a chapter
    assert not (written | made) - listed - waiting, "these pages are in no part of the table of contents"


def test_part_openers_list_the_chapters_of_their_part(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    parts = [{"caption": "I", "chapters": [{"file": "book/part_1"}, {"file": "notebooks/a"}]}]
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"parts": parts}), "utf8")
    (tmp_path / "book" / "part_1.md").write_text(f"# One\n\n{pages.CHAPTERS_HERE}\n", "utf8")
    first = nbformat.v4.new_markdown_cell("# A title\n\n> All of it\n> is so.")
    nbformat.write(nbformat.v4.new_notebook(cells=[first]), tmp_path / "notebooks" / "a.ipynb")
    opener = "# One\n\n[](../notebooks/a.ipynb)\n: All of it is so.\n"
    assert pages.part_openers(tmp_path) == {"part_1.md": opener}
    (tmp_path / "book" / "part_1.md").write_text("# One\n", "utf8")
    with pytest.raises(ValueError, match=r"book/part_1\.md has no line"):
        pages.part_openers(tmp_path)


def test_old_addresses_lead_to_chapters_that_are_there(tmp_path: Path) -> None:
    assert len(contents.MOVED) == 15
    assert set(contents.MOVED.values()) <= {chapter.stem for chapter in CHAPTERS}
    (tmp_path / "notebooks" / "exercises").mkdir(parents=True)
    (tmp_path / "notebooks" / "float_formats.html").write_text("here")
    book.lead_on(tmp_path)
    (old,) = tmp_path.rglob("0*.html")
    assert old == tmp_path / "notebooks" / "06_float_formats.html"
    assert 'href="float_formats.html"' in old.read_text()


def test_no_part_is_empty() -> None:
    """A part opener without a chapter behind it would promise what is not there."""
    for part in TOC["parts"]:
        names = entries(part)
        assert names
        if any(name.startswith("book/part_") for name in names):
            assert any(name.startswith("notebooks/") for name in names), f"{part['caption']} has no chapter yet"


def test_the_address_of_the_repository_stands_in_one_place() -> None:
    """The settings get it from pyproject.toml when the book is assembled."""
    url = book.repository_url()
    assert url not in (ROOT / "_config.yml").read_text("utf8")
    assert book.configuration()["repository"]["url"] == url
    for page in (ROOT / "book").rglob("*.md"):
        assert url not in page.read_text("utf8"), f"{page.name} repeats the repository's address"


def test_foreign_files_are_listed_with_licence_and_checksum() -> None:
    """The site's scripts and fonts come from installed packages; what is kept here serves its tests."""
    folder = ROOT / "tests" / "book" / "vendor"
    listed = json.loads((folder / "vendor.json").read_text("utf8"))
    for entry in listed:
        assert all(
            entry[key] for key in ("file", "package", "version", "licence", "licence_file", "sha256", "used_for")
        )
        assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]
        assert (folder / entry["licence_file"]).read_text("utf8").strip()
    known = {"vendor.json"} | {entry[key] for entry in listed for key in ("file", "licence_file")}
    assert {file.name for file in folder.iterdir()} == known
    scripts = {file.name for file in (ROOT / "book").rglob("*.js")}
    assert scripts == {"a11y.js"}, "a foreign script in book/ needs a folder book/vendor with licence and checksum"


def test_citations_have_an_entry() -> None:
    bibliography = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text("utf8"), re.M))
    texts = {page.name: page.read_text("utf8") for page in (ROOT / "book").rglob("*.md")}
    for chapter in CHAPTERS:
        cells = nbformat.read(chapter, as_version=4).cells
        texts[chapter.name] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for name, text in texts.items():
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text):
            for key in keys.split(","):
                assert key.strip() in bibliography, f"{name} cites {key}, which references.bib does not have"


def test_only_stale_chapters_run_and_one_that_fails_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(book, "fresh", lambda chapter: True)
    book.run_chapters()
    assert not asked
    monkeypatch.setattr(book, "fresh", lambda chapter: chapter != CHAPTERS[0])
    with pytest.raises(book.BookError, match="a chapter did not run"):
        book.build()
    assert [word for word in asked if word.endswith(".ipynb")] == [str(CHAPTERS[0])]


def test_a_chapter_that_was_never_run_stops_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(book, "CHAPTERS", [tmp_path / "nothing.ipynb"])
    monkeypatch.setattr(book, "executed", lambda notebook: notebook)
    with pytest.raises(book.BookError, match=r"no executed copy of nothing\.ipynb"):
        book.assemble(tmp_path / "src")


def test_a_warning_stops_the_build_and_leaves_the_old_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, old = tmp_path / "src", tmp_path / "html"
    (source / "book").mkdir(parents=True)
    (source / "_config.yml").write_text("title: x\n", "utf8")
    (source / "_toc.yml").write_text("format: jb-book\nroot: book/index\n", "utf8")
    (source / "book" / "index.md").write_text("# A page\n\n[](nowhere.md)\n", "utf8")
    old.mkdir()
    (old / "index.html").write_text("the last good one", "utf8")
    monkeypatch.setattr(book, "HTML", old)
    with pytest.raises(book.BookError, match="was not built"):
        book.render(source)
    assert (old / "index.html").read_text("utf8") == "the last good one"
    (source / "book" / "index.md").write_text("# A page\n", "utf8")
    assert "A page" in (book.render(source) / "book" / "index.html").read_text("utf8")

"""Which section teaches what: every item of the two source tutorials, every correction, and the cells that show them.

Two public tutorials gave this course its syllabus. ``book/claims.yml`` lists what they contain and what has to be put
right in it; cells of the chapters name the items they teach (``course.covers``) and the corrections they demonstrate
(``course.shows``) in their metadata. From both this module writes two pages of the book, and says what is missing.

    python -m tools.coverage      # what is missing or misspelt; exit code 1 if anything is
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.dollarmath import dollarmath_plugin
from myst_parser.mdit_to_docutils.base import compute_unique_slug

from tools import contents

CLAIMS = contents.ROOT / "book" / "claims.yml"
ANCHOR_DEPTH = 3  # `myst_heading_anchors` of _config.yml: deeper headings have no address of their own


@dataclass(frozen=True)
class Item:
    """Something a source teaches: ``id``, the ``chapter`` that owns it, and what it is, in our words."""

    id: str
    chapter: str
    phrase: str


@dataclass(frozen=True)
class Correction:
    """Something a source gets wrong: what it ``said``, what is ``right``, and the ``items`` concerned."""

    id: str
    chapter: str
    items: tuple[str, ...]
    said: str
    right: str


@dataclass(frozen=True)
class Claims:
    """The content of claims.yml, in its order."""

    items: dict[str, Item]
    corrections: dict[str, Correction]


@dataclass(frozen=True)
class Place:
    """A cell that names an item. ``kind`` is "covers" or "shows"; ``title`` and ``slug`` are of the heading above."""

    id: str
    kind: str
    notebook: Path
    cell: int  # counted from 1, as a reader counts
    code: bool  # a code cell that the page shows
    title: str
    slug: str

    @property
    def chapter(self) -> str:
        return self.notebook.stem

    def link(self, owner: str) -> str:
        """A MyST link from a page in ``book/`` to the section; it names the chapter where that is not ``owner``."""
        title = self.title if self.chapter == owner else f"{numbered(self.notebook)}: {self.title}"
        return f"[{escape(title)}](../notebooks/{self.notebook.name}#{self.slug})"


def load_claims(path: Path = CLAIMS) -> Claims:
    """Reads claims.yml.

    Raises:
        ValueError: names the entry that lacks a field, has an unknown one, or refers to an item that is not there.
    """
    raw = yaml.safe_load(path.read_text("utf8"))
    items = {id: Item(id, **_fields(path, id, entry, {"chapter", "phrase"})) for id, entry in raw["items"].items()}
    corrections = {}
    for id, entry in raw["corrections"].items():
        fields = _fields(path, id, entry, {"chapter", "items", "said", "right"})
        corrections[id] = Correction(id, **{**fields, "items": tuple(fields["items"])})
        if unknown := [item for item in corrections[id].items if item not in items]:
            raise ValueError(f"{path.name}: {id} corrects {', '.join(unknown)}, not among the items: add it there")
    return Claims(items, corrections)


def places(notebooks: Iterable[Path]) -> list[Place]:
    """Every mention of an item or a correction in the metadata of the notebooks' cells, in reading order."""
    return [place for notebook in notebooks for place in _places_in(notebook)]


def problems(claims: Claims, found: list[Place], chapters: Iterable[str]) -> list[str]:
    """One sentence for each item of ``chapters`` (the names of those that exist) that is taught or shown nowhere, for
    each correction that no code cell shows, and for each id that claims.yml does not know. Empty when all is well."""
    covered = {place.id for place in found if place.kind == "covers"}
    shown = {place.id for place in found if place.kind == "shows" and place.code}
    told = {place.id for place in found if place.kind == "shows" and not place.code}
    written = set(chapters)
    sentences = []
    for place in found:
        known, other = (claims.items, "corrections") if place.kind == "covers" else (claims.corrections, "items")
        if place.id not in known:
            where = f"{place.notebook.name}, cell {place.cell}"
            misplaced = place.id in getattr(claims, other)
            hint = f"that is one of the {other}" if misplaced else "book/claims.yml does not list it"
            sentences.append(f'{where}: course.{place.kind} names "{place.id}", but {hint}')
    for item in claims.items.values():
        if item.chapter in written and item.id not in covered:
            sentences.append(f"{item.chapter} owns {item.id} ({item.phrase}), but no cell covers it")
    for correction in claims.corrections.values():
        if correction.chapter in written and correction.id not in shown:
            lack = (
                "only a Markdown or a removed cell shows it: put the id on a code cell"
                if correction.id in told
                else "no cell shows it"
            )
            sentences.append(f"{correction.chapter} owns the correction {correction.id}, but {lack}")
    return sentences


def coverage_page(claims: Claims, found: list[Place], titles: dict[str, str]) -> str:
    """``book/coverage.md``: item by item, the sections that teach it. ``titles``: see `chapter_titles`."""
    by_id = _by_id(found, "covers")
    lines = [
        *_FRONT_MATTER,
        "# What is covered, and where",
        "",
        "Two public tutorials gave this course its syllabus: one on training large models, here **S0**, and one on the",
        "Vision Transformer, **S1**. Each thing they teach has a row below, with the sections that teach it here.",
        "The page is generated from the chapters; the tests fail when a chapter leaves out an item that it owns.",
        "What had to be put right is on a page of its own: [](corrections.md).",
        "",
    ]
    for chapter, title in titles.items():
        if group := [item for item in claims.items.values() if item.chapter == chapter]:
            taught = sum(1 for item in group if item.id in by_id)
            lines += [f"## {title}", "", f"{taught} of {len(group)} items.", "", "{.course-items}"]
            lines += ["| Item | What it is | Taught in |", "|---|---|---|"]
            lines += [f"| {item.id} | {escape(item.phrase)} | {_links(by_id[item.id], chapter)} |" for item in group]
            lines.append("")
    return "\n".join(lines)


def corrections_page(claims: Claims, found: list[Place], titles: dict[str, str]) -> str:
    """``book/corrections.md``: what popular material says, what is right, and the section whose code shows it."""
    by_id = _by_id([place for place in found if place.code], "shows")
    lines = [
        *_FRONT_MATTER,
        "# Corrections",
        "",
        "The two public tutorials this course grew from say these things, and they are not alone. Below each stands",
        "what is right instead and a link to the section where a cell of this book shows it by running code. If you",
        "learned the subject elsewhere, this page is the quickest way to find out what to unlearn.",
        "",
    ]
    for chapter, title in titles.items():
        if group := [correction for correction in claims.corrections.values() if correction.chapter == chapter]:
            lines += [f"## {title}", ""]
            for correction in group:
                shown = _links(by_id[correction.id], chapter)
                lines += [
                    f"“{correction.said}”",
                    f": {correction.right}",
                    f"  *Shown in:* {shown} ({correction.id})",
                    "",
                ]
    return "\n".join(lines)


def chapter_titles(notebooks: Iterable[Path]) -> dict[str, str]:
    """Name of each chapter -> its title with its number in the book."""
    return {notebook.stem: numbered(notebook) for notebook in notebooks}


def numbered(notebook: Path) -> str:
    """A chapter's title behind its number, if it stands in the book."""
    number = contents.NUMBERS.get(notebook.stem)
    return f"{number}. {contents.title(notebook)}" if number else contents.title(notebook)


def escape(text: str) -> str:
    """Text made safe for a cell of a Markdown table and for the inside of a link."""
    return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]")


_FRONT_MATTER = ["---", "generated: true", "---", ""]


def _places_in(notebook: Path) -> Iterator[Place]:
    markdown = MarkdownIt("commonmark").use(dollarmath_plugin)
    title, slug = "", ""
    slugs: list[str] = []
    for number, cell in enumerate(_read(notebook).cells, start=1):
        if cell.cell_type == "markdown":
            for node in SyntaxTreeNode(markdown.parse(cell.source)).walk():
                if node.type == "heading" and int(node.tag[1]) <= ANCHOR_DEPTH:
                    title, slug = node.children[0].content, compute_unique_slug(node, slugs)
                    slugs.append(slug)
        course: dict[str, Any] = cell.metadata.get("course", {})
        code = cell.cell_type == "code" and "remove-cell" not in cell.metadata.get("tags", [])
        for kind in ("covers", "shows"):
            for id in course.get(kind, []):
                yield Place(id, kind, notebook, number, code, title, slug)


def _fields(path: Path, id: str, entry: dict[str, Any], expected: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict) or set(entry) != expected:
        have = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{path.name}: {id} has {have}, expected exactly {sorted(expected)}")
    return entry


def _by_id(found: list[Place], kind: str) -> dict[str, list[Place]]:
    by_id: dict[str, list[Place]] = defaultdict(list)
    for place in found:
        if place.kind == kind:
            by_id[place.id].append(place)
    return by_id


def _links(found: list[Place], owner: str) -> str:
    return ", ".join(dict.fromkeys(place.link(owner) for place in found)) or "not yet"


def _read(notebook: Path) -> Any:
    return nbformat.read(notebook, as_version=4)


def main() -> int:
    chapters = contents.CHAPTERS
    sentences = problems(load_claims(), places(chapters), (chapter.stem for chapter in chapters))
    print("\n".join(sentences) or f"{len(chapters)} chapters cover every item and show every correction they own")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())

"""Pages of the book that are made from its chapters: the parts' lists of chapters, and the account of the last run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat

from tools import contents

CHAPTERS_HERE = "<!-- chapters of this part -->"


def part_openers(root: Path) -> dict[str, str]:
    """The part openers of ``_toc.yml`` with their chapters filled in: path below ``book/`` -> text.

    An opener is a page ``book/part_*.md``; its chapters are the notebooks that stand in the same part of the table of
    contents, each with the claim that its first cell makes.

    Raises:
        ValueError: the opener has no place for them.
    """
    pages = {}
    for files, chapters in contents.parts(root):
        for file in (file for file in files if file.startswith("book/part_")):
            text = (root / f"{file}.md").read_text("utf8")
            if CHAPTERS_HERE not in text:
                raise ValueError(f"{file}.md has no line {CHAPTERS_HERE!r}: put it where its chapters shall be listed")
            listed = "\n\n".join(f"[](../notebooks/{chapter.name})\n: {claim(chapter)}" for chapter in chapters)
            pages[f"{Path(file).name}.md"] = text.replace(CHAPTERS_HERE, listed)
    return pages


def chinese_terms(glossary: Path) -> list[str]:
    """The Chinese terms of the glossary, each once: without them the search would cut some in two."""
    return sorted(set(re.findall(r"[\u4e00-\u9fff]{2,}", glossary.read_text("utf8"))))


def claim(chapter: Path) -> str:
    """What the chapter says it will prove: the text below the title in its first cell."""
    first = _read(chapter).cells[0].source
    lines = [line.lstrip("> ").strip() for line in first.splitlines() if not line.startswith("#")]
    return " ".join(filter(None, lines))


def last_run_page(records: list[Path]) -> str:
    """``book/last_run.md``: what each chapter cost when this copy of the book was made, and with which versions."""
    lines = [
        *("---", "generated: true", "---", ""),
        "# The last run",
        "",
        "Every output in this book comes from one run of its chapters, without a GPU and without a network.",
        "This is what that run cost. Memory is the peak of all the processes of a chapter together.",
        "",
        "| Chapter | Executed (UTC) | Time | Peak memory |",
        "|---|---|---|---|",
    ]
    versions: dict[str, str] = {}
    for path in records:
        record = json.loads(path.read_text("utf8"))
        versions |= record["versions"]
        link = f"[](../notebooks/{path.stem}.ipynb)"
        date, memory = record["date"][:16].replace("T", " "), record["peak_memory_gb"]
        lines.append(f"| {link} | {date} | {record['seconds']:.0f} s | {memory:.2f} GB |")
    shown = ("python", "machine", "torch", "torchvision", "numpy", "transformers", "timm", "ml_dtypes", "ml-dtypes")
    rows = [f"| {name} | {versions[name]} |" for name in shown if name in versions]
    lines += ["", "It ran with these versions:", "", "| What | Version |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _read(notebook: Path) -> Any:
    return nbformat.read(notebook, as_version=4)

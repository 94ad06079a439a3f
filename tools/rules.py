"""What must hold of a notebook's source, each rule with a sentence that says what to do.

`problems` looks at one notebook; `ruff` runs the linter and the formatter over the cells of several. Most of what they
name is mended by `python -m tools.sync` and `ruff format`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from tools import sync
from tools.contents import NOTEBOOKS
from tools.execution import MEMORY_LIMIT_GB, SECONDS_LIMIT
from tools.judge import ABSOLUTE_PATH, describe

LINES = 30
LICENCE = {"code": "MIT", "prose": "CC-BY-4.0"}
COURSE_KEYS: dict[str, tuple[type, ...]] = {"chapter": (str,), "seconds": (int,), "memory_gb": (int, float)}
CHAPTER_KEYS = COURSE_KEYS | {"minutes_to_read": (int,)}
REGISTRY_HOST = re.compile(r"\b(?:[\w.-]*\b(?:pypi|pythonhosted|anaconda|npmjs)\.(?:org|com)|[\w-]+\.local)\b")

Rule = Callable[[Path, NotebookNode], Iterator[str]]


def problems(notebook: Path, nb: NotebookNode) -> list[str]:
    """Every broken rule of one notebook (`notebook` says which it is; its content is `nb`)."""
    rules = [stripped, ids, metadata, setup_cell, length, sources, syntax, alt_text]
    if _is_chapter(notebook):
        rules += [title, card]
    return [sentence for rule in rules for sentence in rule(notebook, nb)]


def stripped(_: Path, nb: NotebookNode) -> Iterator[str]:
    for index, cell in _code(nb):
        if cell.outputs or cell.execution_count is not None:
            yield f"{describe(nb, index)}: outputs are kept out of git; run `python -m tools.sync`"
        if not cell.source.strip():
            yield f"{describe(nb, index)}: an empty code cell; remove it"


def ids(notebook: Path, nb: NotebookNode) -> Iterator[str]:
    seen: set[str] = set()
    for number, cell in enumerate(nb.cells, start=1):
        if not sync.has_id(cell, notebook.stem) or cell["id"] in seen:
            wanted = f"one such as '{notebook.stem}-{number:03d}', which no other cell has"
            yield f"cell {number} has the id {cell.get('id')!r}, expected {wanted}; run `python -m tools.sync`"
            return
        seen.add(cell["id"])


def metadata(notebook: Path, nb: NotebookNode) -> Iterator[str]:
    course = nb.metadata.get("course", {})
    for key, kinds in (CHAPTER_KEYS if _is_chapter(notebook) else COURSE_KEYS).items():
        if not isinstance(course.get(key), kinds) or isinstance(course.get(key), bool):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            yield f"metadata `course.{key}` is {course.get(key)!r}, expected {wanted}"
    if course.get("chapter") != notebook.stem:
        wanted = f"{notebook.stem!r}, the file's name"
        yield f"metadata `course.chapter` is {course.get('chapter')!r}, expected {wanted}"
    if course.get("licence") != LICENCE:
        yield f"metadata `course.licence` is {course.get('licence')!r}, expected {LICENCE!r}"
    for key, limit in {"seconds": SECONDS_LIMIT, "memory_gb": MEMORY_LIMIT_GB}.items():
        value: Any = course.get(key)
        if isinstance(value, int | float) and not 0 < value <= limit:
            yield f"metadata `course.{key}` is {value}, expected more than 0 and at most {limit:g}"
    if nb.metadata.get("kernelspec") != sync.KERNEL:
        yield f"metadata `kernelspec` is not {sync.KERNEL!r}; run `python -m tools.sync`"


def title(_: Path, nb: NotebookNode) -> Iterator[str]:
    first = nb.cells[0] if nb.cells else None
    match = re.match(r"# \S.*\n+(.*\S)", first.source, re.S) if first and first.cell_type == "markdown" else None
    if match is None or match[1].startswith("#") or len(match[1].split()) < 4 or not re.search(r"[.?!。]", match[1]):
        yield "the first cell must be Markdown: `# Title`, then the sentence that the chapter proves, in full"
    headings = [
        line for cell in nb.cells if cell.cell_type == "markdown" for line in _prose(cell) if re.match(r"# ", line)
    ]
    if len(headings) > 1:
        yield f"{headings[1]!r} is a second title; sections of a chapter begin with `##`"


def card(notebook: Path, nb: NotebookNode) -> Iterator[str]:
    tagged = [index for index, cell in enumerate(nb.cells) if "card" in cell.metadata.get("tags", [])]
    if tagged != [1] or nb.cells[1].cell_type != "markdown":
        yield f"cell 2, and no other, must be Markdown tagged `card`; so tagged are {[i + 1 for i in tagged]}"
        return
    source = nb.cells[1].source
    try:
        wanted = sync.card_table(notebook, nb.metadata["course"])
    except (KeyError, ValueError):
        return  # `metadata` has named the key
    if not source.startswith(wanted):
        yield "the table of the card is not what the metadata says; run `python -m tools.sync`"
    if not re.search(r"you will be able to", source, re.I):
        yield 'the card does not say what the reader "will be able to" do: add it below the table, three to five verbs'


def setup_cell(notebook: Path, nb: NotebookNode) -> Iterator[str]:
    tagged = [index for index, cell in enumerate(nb.cells) if "setup" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or nb.cells[tagged[0]].cell_type != "code":
        yield f"one code cell must be tagged `setup`; tagged are the cells {[i + 1 for i in tagged]}"
        return
    if _is_chapter(notebook) and tagged != [2]:
        yield f"the set-up cell is cell {tagged[0] + 1}, expected the third, after the title and the card"
    if any(index < tagged[0] for index, _ in _code(nb)):
        yield "a code cell stands before the set-up cell"
    if nb.cells[tagged[0]].source != sync.setup_source(notebook.stem):
        yield "the set-up cell is not the course's own; run `python -m tools.sync`"


def length(_: Path, nb: NotebookNode) -> Iterator[str]:
    for index, cell in _code(nb):
        lines = len(cell.source.splitlines())
        if lines > LINES:
            yield f"{describe(nb, index)}: {lines} lines of code, {LINES} at most; split it, or use course_utils"


def sources(_: Path, nb: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(nb.cells, start=1):
        for what, pattern in {
            "an absolute path": ABSOLUTE_PATH,
            "the host of a package registry": REGISTRY_HOST,
        }.items():
            if match := pattern.search(cell.source):
                yield f"cell {number} holds {what}: {cell.source[match.start() : match.start() + 50].splitlines()[0]!r}"


def syntax(_: Path, nb: NotebookNode) -> Iterator[str]:
    for index, cell in _code(nb):
        if "raises-exception" not in cell.metadata.get("tags", []) and _parse(cell) is None:
            yield f"{describe(nb, index)}: is not valid Python"
        if match := re.search(r"^\s*[%!]\S+", cell.source, re.M):
            yield f"{describe(nb, index)}: {match[0].strip()!r} works in IPython alone; write it in Python"


def alt_text(_: Path, nb: NotebookNode) -> Iterator[str]:
    for index, cell in _code(nb):
        for node in ast.walk(_parse(cell) or ast.Module(body=[], type_ignores=[])):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("figures.show"):
                alt = next((keyword.value for keyword in node.keywords if keyword.arg == "alt"), None)
                if alt is None or (isinstance(alt, ast.Constant) and len(str(alt.value).split()) < 3):
                    yield f"{describe(nb, index)}: `figures.show` without `alt`: say in words what it shows"
    for number, cell in enumerate(nb.cells, start=1):
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")", cell.source):
            yield f"cell {number} shows a picture without a text in its place (alt)"


def ruff(notebooks: list[Path]) -> list[str]:
    """What `ruff check` and `ruff format --check` say of the notebooks' cells, with the settings of pyproject.toml."""
    found = []
    for command in (
        ["check", "--quiet", "--output-format=concise"],
        ["format", "--check", "--quiet", "--output-format=concise"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *map(str, notebooks)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            found += (done.stdout + done.stderr).strip().splitlines() or [
                f"ruff {command[0]} ended with {done.returncode}"
            ]
    return found


def _is_chapter(notebook: Path) -> bool:
    """A chapter, and not a notebook of exercises with its solutions."""
    return notebook.resolve().parent == NOTEBOOKS


def _code(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(index, cell) for index, cell in enumerate(nb.cells) if cell.cell_type == "code"]


def _prose(cell: NotebookNode) -> list[str]:
    """The lines of a Markdown cell outside its fenced code."""
    return re.sub(r"^(```|~~~|:::).*?^\1", "", cell.source, flags=re.S | re.M).splitlines()


def _parse(cell: NotebookNode) -> ast.Module | None:
    try:
        return ast.parse(TransformerManager().transform_cell(cell.source))
    except SyntaxError:
        return None

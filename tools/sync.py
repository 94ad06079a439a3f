"""Write into notebooks and pages what follows from elsewhere: `python -m tools.sync [--check] [NOTEBOOK ...]`.

In a notebook: outputs and counts stripped, cell ids, kernel metadata, the table of the card and the
set-up cell. In README.md: the address of the repository, which stands in pyproject.toml (the book's settings get it
when the book is assembled). With `--check` nothing is written, and the exit code says whether anything would be. What
it cannot write it names, and exits with 1.
"""

import argparse
import difflib
import itertools
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbstripout import strip_output

from tools.contents import CHAPTERS, NOTEBOOKS, ROOT, SOLUTIONS
from tools.execution import write

BRANCH = "main"
CARD_BEGIN, CARD_END = "<!-- card: written by tools.sync from the notebook's metadata -->", "<!-- end of card -->"
README_BEGIN, README_END = "<!-- address: written by tools.sync from pyproject.toml -->", "<!-- end of address -->"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SETUP = """\
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("course_utils") is None:  # opened alone, as in Colab
    source = "course-utils @ git+{repository}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

from course_utils import runtime

runtime.setup("{chapter}")"""


def repository() -> str:
    """The repository's address, from the one place where it stands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"]).rstrip("/")


def colab(notebook: Path) -> str:
    """The address that opens `notebook` (a path below notebooks/) in Colab."""
    path = notebook.resolve().relative_to(ROOT).as_posix()
    owner_and_name = repository().removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/{path}"


def setup_source(chapter: str) -> str:
    """The set-up cell of a chapter: the same in all but for the name."""
    return SETUP.format(repository=repository(), chapter=chapter)


def card_table(notebook: Path, course: dict[str, Any]) -> str:
    """The generated head of the card, between its two markers."""
    rows = {
        "Time to read": f"{course['minutes_to_read']} minutes",
        "Time to run": f"at most {course['seconds']} seconds on two CPU cores",
        "Memory": f"at most {course['memory_gb']:g} GB",
        "GPU": "not needed",
        "Network": "not needed",
    }
    lines = [
        CARD_BEGIN,
        f'<a class="course-colab" href="{colab(notebook)}">Open in Colab</a>',
        "",
        f"| {' | '.join(rows)} |",
        f"|{' --- |' * len(rows)}",
        f"| {' | '.join(rows.values())} |",
        "",
        CARD_END,
    ]
    return "\n".join(lines)


def mend(notebook: Path, nb: NotebookNode) -> list[str]:
    """Mend `nb` in place; return what only its author can mend."""
    strip_output(nb, keep_output=False, keep_count=False, keep_id=True)
    nb.metadata["kernelspec"] = dict(KERNEL)
    nb.metadata["language_info"] = {"name": "python"}
    nb.nbformat, nb.nbformat_minor = 4, 5
    _give_ids(nb, notebook.stem)
    for cell in nb.cells:
        cell.source = cell.source.strip("\n")
    left = []
    if (setup := _tagged(nb, "setup")) is None:
        left.append(
            "has no set-up cell: add a code cell as the third cell and tag it `setup`; tools.sync writes its source"
        )
    else:
        setup.source = setup_source(notebook.stem)
    if notebook.parent == NOTEBOOKS:
        left += _mend_card(notebook, nb)
    return left


def _give_ids(nb: NotebookNode, chapter: str) -> None:
    """An id for each cell that has none of the chapter's own; the others keep theirs: a diff shows the new cells."""
    taken: set[str] = set()
    new = []
    for cell in nb.cells:
        if has_id(cell, chapter) and cell["id"] not in taken:
            taken.add(cell["id"])
        else:
            new.append(cell)
    numbers = (f"{chapter}-{number:03d}" for number in itertools.count(1))
    free = (id for id in numbers if id not in taken)
    for cell in new:
        cell["id"] = next(free)


def has_id(cell: NotebookNode, chapter: str) -> bool:
    """Whether a cell's id says where it belongs: the chapter's name and, behind a hyphen, a number or a word."""
    return re.fullmatch(rf"{re.escape(chapter)}-\w+", str(cell.get("id"))) is not None


def _mend_card(notebook: Path, nb: NotebookNode) -> list[str]:
    if (card := _tagged(nb, "card")) is None:
        return ["has no card: add a Markdown cell as the second cell and tag it `card`; tools.sync writes its table"]
    try:
        table = card_table(notebook, nb.metadata.get("course", {}))
    except (KeyError, ValueError) as error:
        return [
            f"its card cannot be written: `course` in the notebook's metadata has no good {error} (CONTRIBUTING.md)"
        ]
    hand_written = re.sub(rf"{re.escape(CARD_BEGIN)}.*?{re.escape(CARD_END)}", "", card.source, flags=re.S).strip()
    card.source = f"{table}\n\n{hand_written}".rstrip()
    return []


def mend_pages() -> dict[Path, str]:
    """The pages that name the repository's address, as they must stand: path -> text."""
    readme = ROOT / "README.md"
    if not readme.is_file():
        return {}
    block = rf"(?<={re.escape(README_BEGIN)}\n).*?(?={re.escape(README_END)})"
    return {readme: re.sub(block, lambda _: readme_block(), readme.read_text(encoding="utf-8"), flags=re.S)}


def readme_block() -> str:
    """What the README says that depends on the repository's address: how to fetch it, where the book is published."""
    address = repository()
    owner, name = address.rsplit("/", 2)[1:]
    raw = address.replace("https://github.com", "https://raw.githubusercontent.com")
    return f"""
```bash
git clone {address}
cd {name}
```

Read it on the web at [{owner}.github.io/{name}](https://{owner}.github.io/{name}/).
A question, or a mistake in the book? [Open an issue]({address}/issues).

![Tests]({address}/actions/workflows/tests.yml/badge.svg)
![Last verified](https://img.shields.io/endpoint?url={raw}/status/last-verified.json)

"""


def _tagged(nb: NotebookNode, tag: str) -> NotebookNode | None:
    return next((cell for cell in nb.cells if tag in cell.metadata.get("tags", [])), None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sync", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything is out of step")
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="the notebooks to mend (all of them, and the pages, if none)"
    )
    options = parser.parse_args(arguments)
    chosen = [path.resolve() for path in options.notebooks]
    if strangers := [path for path in chosen if path not in (*CHAPTERS, *SOLUTIONS)]:
        if strangers := [path for path in strangers if path.parent != NOTEBOOKS / "exercises"]:  # those are generated
            parser.error(
                f"{strangers[0]} is no chapter: notebooks/TOPIC.ipynb or notebooks/solutions/TOPIC.ipynb of _toc.yml"
            )
        chosen = [path for path in chosen if path.parent != NOTEBOOKS / "exercises"]
    status = 0
    wanted = {} if options.notebooks else mend_pages()
    for path in chosen if options.notebooks else [*CHAPTERS, *SOLUTIONS]:
        nb = nbformat.read(path, as_version=4)
        for sentence in mend(path, nb):
            print(f"{path.relative_to(ROOT)} {sentence}", file=sys.stderr)
            status = 1
        wanted[path] = nbformat.writes(nb).rstrip("\n") + "\n"
    for path, text in wanted.items():
        before = path.read_text(encoding="utf-8")
        if before == text:
            continue
        status = 1 if options.check else status
        print(f"{path.relative_to(ROOT)}: {'out of step' if options.check else 'mended'}")
        if options.check:
            difference = difflib.unified_diff(
                before.splitlines(), text.splitlines(), "is", "should be", n=0, lineterm=""
            )
            print("\n".join(f"    {line[:160]}" for line in list(difference)[2:14]))
        else:
            write(path, text)
    return status


if __name__ == "__main__":
    sys.exit(main())

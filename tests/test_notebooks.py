"""Discipline of the notebooks' sources. Each rule is shown to catch the defect it is there for, on a toy notebook."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from toy import Course, chapter_cells, notebook

from tools import rules, sync
from tools.contents import CHAPTERS, NOTEBOOKS, SOLUTIONS

TOY = NOTEBOOKS / "toy.ipynb"  # a name only: nothing is written there

REGISTRY = ".".join(("pypi", "org"))  # no file of the repository may hold such a name, this one included


@pytest.mark.parametrize("path", [*CHAPTERS, *SOLUTIONS], ids=lambda path: str(path.relative_to(NOTEBOOKS)))
def test_notebook_keeps_the_rules(path: Path) -> None:
    assert rules.problems(path, nbformat.read(path, as_version=4)) == []


def test_cells_are_linted_and_formatted() -> None:
    found = rules.ruff([*CHAPTERS, *SOLUTIONS]) if CHAPTERS else []
    assert not found, "\n".join([*found, "run `ruff check --fix` and `ruff format`, then `python -m tools.sync`"])


def test_there_is_something_to_check() -> None:
    assert CHAPTERS, "no chapter was found in notebooks/: the checks above would pass on nothing"


def _toy() -> NotebookNode:
    nb = notebook(*chapter_cells(), "print(2 + 2)", new_markdown_cell("## Recap\n\nFour."))
    assert sync.mend(TOY, nb) == []
    return nb


def test_a_mended_toy_keeps_every_rule() -> None:
    assert rules.problems(TOY, _toy()) == []


def _source(index: int, text: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[index].update(source=text)


def _append(cell: NotebookNode) -> Callable[[NotebookNode], None]:
    def plant(nb: NotebookNode) -> None:
        nb.cells.append(cell)
        cell["id"] = f"toy-{len(nb.cells):03d}"

    return plant


def _course(key: str, value: object) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.metadata["course"].update({key: value})


def _outputs(nb: NotebookNode) -> None:
    nb.cells[3].outputs = [new_output("stream", name="stdout", text="4\n")]


def _count(nb: NotebookNode) -> None:
    nb.cells[3].execution_count = 7


def _id(nb: NotebookNode) -> None:
    nb.cells[3]["id"] = "3f9c02aa"


def _untag(index: int) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[index].metadata.update(tags=[])


def _swap(nb: NotebookNode) -> None:
    nb.cells[2].source, nb.cells[3].source = nb.cells[3].source, nb.cells[2].source
    nb.cells[2].metadata, nb.cells[3].metadata = nb.cells[3].metadata, nb.cells[2].metadata


# What is planted, the rule that must name it, and the number or name that its sentence must hold.
DEFECTS: dict[str, tuple[Callable[[NotebookNode], None], rules.Rule, str]] = {
    "output kept": (_outputs, rules.stripped, ""),
    "count kept": (_count, rules.stripped, ""),
    "random id": (_id, rules.ids, "'toy-004'"),
    "empty cell": (_append(new_code_cell("")), rules.stripped, ""),
    "title without claim": (_source(0, "# A toy"), rules.title, ""),
    "section for a claim": (
        _source(0, "# A toy\n\n## What it is about, in short."),
        rules.title,
        "",
    ),
    "two titles": (_append(new_markdown_cell("# Again")), rules.title, "# Again"),
    "no card": (_untag(1), rules.card, ""),
    "card by hand": (_source(1, "You will be able to add."), rules.card, "tools.sync"),
    "card out of date": (_course("minutes_to_read", 99), rules.card, "tools.sync"),
    "card without verbs": (
        lambda nb: _source(1, nb.cells[1].source.split("**")[0])(nb),
        rules.card,
        "will be able to",
    ),
    "no set-up": (_untag(2), rules.setup_cell, "setup"),
    "set-up edited": (_source(2, "from course_utils import runtime"), rules.setup_cell, "tools.sync"),
    "set-up late": (_swap, rules.setup_cell, "cell 4"),
    "code before set-up": (_swap, rules.setup_cell, "before"),
    "no seconds": (lambda nb: nb.metadata["course"].pop("seconds"), rules.metadata, "course.seconds"),
    "too many seconds": (_course("seconds", 121), rules.metadata, "121"),
    "too much memory": (_course("memory_gb", 6.5), rules.metadata, "6.5"),
    "no memory": (_course("memory_gb", 0), rules.metadata, "course.memory_gb"),
    "wrong chapter": (_course("chapter", "other"), rules.metadata, "'other'"),
    "no licence": (_course("licence", None), rules.metadata, "course.licence"),
    "other kernel": (lambda nb: nb.metadata["kernelspec"].update(name="my-env"), rules.metadata, "kernelspec"),
    "long cell": (_append(new_code_cell("x = 1\n" * 31)), rules.length, "31"),
    "path": (_append(new_code_cell("open('/home/ada/x.txt')")), rules.sources, "/home/ada/x.txt"),
    "path in prose": (_append(new_markdown_cell("Look into `/tmp/run`.")), rules.sources, "/tmp/run"),
    "registry": (
        _append(new_code_cell(f"url = 'https://{REGISTRY}/simple'")),
        rules.sources,
        REGISTRY,
    ),
    "not Python": (_append(new_code_cell("for x in:")), rules.syntax, ""),
    "magic": (_append(new_code_cell("%timeit sum([])")), rules.syntax, "%timeit"),
    "shell": (_append(new_code_cell("!ls")), rules.syntax, "!ls"),
    "figure without alt": (_append(new_code_cell("figures.show(fig)")), rules.alt_text, "figures.show"),
    "figure with an empty alt": (_append(new_code_cell("figures.show(fig, alt='')")), rules.alt_text, "figures.show"),
    "picture without alt": (_append(new_markdown_cell("![](x.svg)")), rules.alt_text, ""),
}


def test_each_planted_defect_is_named() -> None:
    for defect, (plant, rule, word) in DEFECTS.items():
        nb = _toy()
        plant(nb)
        found = list(rule(TOY, nb))
        assert any(word in sentence for sentence in found), (defect, found)
        assert set(found) <= set(rules.problems(TOY, nb)), defect


def test_ruff_sees_into_cells(tmp_path: Path) -> None:
    course = Course(tmp_path)
    unused = course.add(notebook("import math"), "unused.ipynb")
    unformatted = course.add(notebook("x = {'a':1}\nprint( x )"), "unformatted.ipynb")
    found = rules.ruff([unused, unformatted])
    assert any("F401" in line and "unused" in line for line in found), found
    assert any("would" in line.lower() and "unformatted" in line for line in found), found


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    """A course in miniature that `tools.sync` takes for the checkout."""
    course = Course(tmp_path)
    monkeypatch.setattr(sync, "ROOT", tmp_path)
    monkeypatch.setattr(sync, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(sync, "SOLUTIONS", [])
    monkeypatch.setattr(sync, "CHAPTERS", [tmp_path / "notebooks" / f"{name}.ipynb" for name in ("toy", "second")])
    return course


def test_sync_mends_all_it_can_and_then_has_nothing_to_do(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    nb = notebook(*chapter_cells(), "print(2 + 2)")
    _outputs(nb)
    _count(nb)
    path = course.add(nb)
    assert sync.main(["--check", str(path)]) == 1
    assert "notebooks/toy.ipynb: out of step" in capsys.readouterr().out
    assert nbformat.read(path, as_version=4) == nb, "--check must not write"
    assert sync.main([str(path)]) == 0
    mended = nbformat.read(path, as_version=4)
    assert rules.problems(TOY, mended) == []
    assert "**You will be able to** add." in mended.cells[1].source
    capsys.readouterr()
    assert sync.main(["--check", str(path)]) == 0
    assert capsys.readouterr().out == ""


def test_sync_names_what_it_cannot_mend(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    course.add(notebook("print(1)"))
    keyless = notebook(*chapter_cells(), chapter="second")
    del keyless.metadata["course"]["minutes_to_read"]
    course.add(keyless, "second.ipynb")
    assert sync.main([]) == 1
    said = capsys.readouterr().err
    for words in (r"toy\.ipynb .*set-up cell", r"toy\.ipynb .*card", r"second\.ipynb .*'minutes_to_read'"):
        assert re.search(words, said), said


def test_sync_refuses_a_file_that_is_no_chapter(course: Course) -> None:
    done = course.sync("README.md")
    assert done.returncode == 2
    assert "README.md is no chapter" in done.stderr


def test_mending_keeps_what_the_author_wrote() -> None:
    nb = _toy()
    nb.cells[3].metadata["course"] = {"covers": ["S0-36"]}
    before = copy.deepcopy(nb)
    sync.mend(TOY, nb)
    assert nb == before


def test_pages_carry_the_address_of_the_repository() -> None:
    for path, text in sync.mend_pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of step: run `python -m tools.sync`"
        assert sync.repository() in text

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


DEFECTS: dict[str, tuple[Callable[[NotebookNode], None], str]] = {
    "output kept": (_outputs, "outputs are kept out of git"),
    "count kept": (_count, "outputs are kept out of git"),
    "random id": (_id, "cell 4 has the id '3f9c02aa', expected one such as 'toy-004'"),
    "empty cell": (_append(new_code_cell("")), "an empty code cell"),
    "title without claim": (_source(0, "# A toy"), "the sentence that the chapter proves"),
    "section for a claim": (
        _source(0, "# A toy\n\n## What it is about, in short."),
        "the sentence that the chapter proves",
    ),
    "two titles": (_append(new_markdown_cell("# Again")), "'# Again' is a second title"),
    "no card": (_untag(1), "must be Markdown tagged `card`"),
    "card by hand": (_source(1, "You will be able to add."), "not what the metadata says"),
    "card out of date": (_course("minutes_to_read", 99), "not what the metadata says"),
    "card without verbs": (
        lambda nb: _source(1, nb.cells[1].source.split("**")[0])(nb),
        'the reader "will be able to" do',
    ),
    "no set-up": (_untag(2), "one code cell must be tagged `setup`"),
    "set-up edited": (_source(2, "from course_utils import runtime"), "the set-up cell is not the course's own"),
    "set-up late": (_swap, "expected the third"),
    "code before set-up": (_swap, "a code cell stands before the set-up cell"),
    "no seconds": (lambda nb: nb.metadata["course"].pop("seconds"), "`course.seconds` is None, expected int"),
    "too many seconds": (_course("seconds", 121), "`course.seconds` is 121, expected more than 0 and at most 120"),
    "too much memory": (_course("memory_gb", 6.5), "`course.memory_gb` is 6.5, expected more than 0 and at most 6"),
    "no memory": (_course("memory_gb", 0), "`course.memory_gb` is 0"),
    "wrong chapter": (_course("chapter", "other"), "`course.chapter` is 'other', expected 'toy', the file's name"),
    "no licence": (_course("licence", None), "`course.licence` is None"),
    "other kernel": (lambda nb: nb.metadata["kernelspec"].update(name="my-env"), "`kernelspec` is not"),
    "long cell": (_append(new_code_cell("x = 1\n" * 31)), "31 lines of code, 30 at most"),
    "path": (_append(new_code_cell("open('/home/ada/x.txt')")), 'holds an absolute path: "/home/ada/x.txt'),
    "path in prose": (_append(new_markdown_cell("Look into `/tmp/run`.")), "holds an absolute path"),
    "registry": (
        _append(new_code_cell(f"url = 'https://{REGISTRY}/simple'")),
        f'the host of a package registry: "{REGISTRY}',
    ),
    "not Python": (_append(new_code_cell("for x in:")), "is not valid Python"),
    "magic": (_append(new_code_cell("%timeit sum([])")), "'%timeit' works in IPython alone"),
    "shell": (_append(new_code_cell("!ls")), "'!ls' works in IPython alone"),
    "figure without alt": (_append(new_code_cell("figures.show(fig)")), "`figures.show` without `alt`"),
    "figure with an empty alt": (_append(new_code_cell("figures.show(fig, alt='')")), "`figures.show` without `alt`"),
    "picture without alt": (_append(new_markdown_cell("![](x.svg)")), "a picture without a text"),
}


def test_each_planted_defect_is_named() -> None:
    for defect, (plant, words) in DEFECTS.items():
        nb = _toy()
        plant(nb)
        found = rules.problems(TOY, nb)
        assert any(words in sentence for sentence in found), (defect, found)


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

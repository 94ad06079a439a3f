"""The students' copies follow from the solutions and give nothing away."""

import copy
import re

import nbformat
import pytest

from course_utils.exercises import Check
from tools import exercises
from tools.contents import NOTEBOOKS, SOLUTIONS


def test_exercises_and_solutions_are_in_step():
    assert exercises.main(["--check"]) == 0


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)
def test_copies_hold_stubs_and_no_solution(solution):
    source = nbformat.read(solution, as_version=4)
    student = nbformat.read(NOTEBOOKS / "exercises" / solution.name, as_version=4)
    nbformat.validate(student)
    text = "\n".join(cell.source for cell in student.cells)
    assert "SOLUTION" not in text
    assert all(not cell.get("outputs") for cell in student.cells)
    inside = [
        line.strip()
        for cell in source.cells
        if exercises.BEGIN in cell.source
        for line in cell.source.split(exercises.BEGIN)[1].split("### END SOLUTION")[0].splitlines()
        if len(line.strip()) > 12  # not `else:`
    ]
    assert inside
    student_code = {
        line.strip() for cell in student.cells if cell.cell_type == "code" for line in cell.source.splitlines()
    }
    assert not student_code.intersection(inside)
    assert text.count("raise NotImplementedError(") == len(exercises.chapter_checks(solution))
    setup = [[cell.source for cell in nb.cells if "setup" in cell.metadata.get("tags", [])] for nb in (source, student)]
    assert setup[0] == setup[1] != []


def test_a_solution_that_changes_is_noticed(tmp_path, monkeypatch, capsys):
    for folder in ("solutions", "exercises"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "solutions" / SOLUTIONS[0].name
    path.write_text(SOLUTIONS[0].read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(exercises, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    monkeypatch.setattr(exercises, "SOLUTIONS", [path])
    assert exercises.main(["--check"]) == 1  # there is no copy yet
    assert exercises.main([]) == 0
    assert exercises.main(["--check"]) == 0
    before = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r", \d+ minutes", ", 61 minutes", before, count=1), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    capsys.readouterr()
    assert exercises.main(["--check"]) == 1
    assert "out of step; run python -m tools.exercises" in capsys.readouterr().out
    (tmp_path / "exercises" / "stranger.ipynb").write_text("{}")
    assert exercises.main([]) == 1
    assert "has no source" in capsys.readouterr().out


def notebook(*sources):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nb


SOLVED = "def f(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION"


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([SOLVED], "the last solution has no check cell; add one with check_f"),
        ([SOLVED, SOLVED, "check_f(f)"], "cell 2 is a second solution before a check cell"),
        (["check_f(f)"], "no cell with '### BEGIN SOLUTION' stands above it"),
        ([SOLVED, "check_g(g)"], "cell 2 calls check_g(g); the chapter's checks are check_f"),
        ([SOLVED, "check_f(g)"], "cell 2 calls check_f(g)"),
        ([], "check_f is defined for the chapter, but no cell calls it"),
        ([SOLVED, "check_f(f)", SOLVED, "check_f(f)"], "cell 4 calls check_f(f)"),
    ],
)
def test_what_does_not_belong_together_is_named(sources, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(").replace(")", r"\)")):
        exercises.annotate(notebook(*sources), [Check("example.1", "f", parameters=("x",))])


def test_annotating_twice_changes_nothing():
    check = Check("example.1", "f", parameters=("x",))
    nb = notebook(SOLVED, "check_f(f)")
    exercises.annotate(nb, [check])
    once = copy.deepcopy(nb)
    exercises.annotate(nb, [check])
    assert nb == once
    student = exercises.student_copy(nb, [check])
    assert student.cells[0].source == 'def f(x):\n    raise NotImplementedError("Exercise 1: write f, then check it")'
    assert "SOLUTION" in nb.cells[0].source  # the source is left as it was

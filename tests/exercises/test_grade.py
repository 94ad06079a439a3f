"""Grading of what is handed in, by the course's own command and by nbgrader, which takes the notebooks as they are."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from mutants import NOTEBOOKS

from course_utils.exercises import checks_of, float_formats, grade
from course_utils.exercises.report import KEY

NAME = "float_formats.ipynb"
FULL = {check.answer: len(check) for check in checks_of(float_formats)}
TIES_AWAY = ("np.rint(steps)", "np.copysign(np.floor(np.abs(steps) + 0.5), steps)")  # right in 4 of 6 points
FORGERY = f"""
from IPython.display import display
class Report:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {{"text/plain": "5"}}, {{"{KEY}": {{"points": 5, "outcomes": []}}}}
Report()
"""
DEAF = """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


def submit(folder: Path, source: str, *replacements: tuple[str, str], more: dict[int, str] | None = None) -> Path:
    """A copy of one of the notebooks without its slow set-up cell: edited, and with cells put in: index -> source."""
    nb = nbformat.read(NOTEBOOKS / source / NAME, as_version=4)
    nb.cells = [cell for cell in nb.cells if "setup" not in cell.metadata.get("tags", [])]
    for old, new in replacements:
        assert any(old in cell.source for cell in nb.cells), old
        for cell in nb.cells:
            cell.source = cell.source.replace(old, new)
    for index, code in (more or {}).items():
        nb.cells.insert(index if index >= 0 else len(nb.cells), nbformat.v4.new_code_cell(code))
    folder.mkdir(parents=True)
    nbformat.write(nb, folder / NAME)
    return folder / NAME


@pytest.mark.timeout(900)  # it starts five kernels
def test_the_command_grades_whatever_is_handed_in(tmp_path, capfd):
    notebooks = [
        submit(tmp_path / "ana", "solutions"),
        submit(tmp_path / "bo", "exercises"),
        # A forged result; a check that was edited away, in a notebook with one exercise partly wrong.
        submit(tmp_path / "cy", "exercises", more={-1: FORGERY}),
        submit(tmp_path / "dee", "solutions", TIES_AWAY, ("check_decode(decode)", "1")),
        # The kernel dies, or hangs in code that no interrupt ends, after the second exercise.
        submit(tmp_path / "eve", "solutions", more={10: "import os\nos._exit(3)"}),
        submit(tmp_path / "fay", "solutions", more={10: DEAF}),
        tmp_path / "gil" / NAME,
        tmp_path / "hal" / "essay.ipynb",
    ]
    for path in notebooks[-2:]:
        path.parent.mkdir()
    notebooks[-2].write_text("{ no notebook")
    nbformat.write(nbformat.v4.new_notebook(), notebooks[-1])
    table = tmp_path / "out.csv"
    assert grade.main([*map(str, notebooks), "--csv", str(table), "--seconds", "20"]) == 0
    out = capfd.readouterr().out
    with table.open(encoding="utf-8") as file:
        rows = {(row["student"], row["answer"]): row for row in csv.DictReader(file)}

    def points(student):
        return {name: int(rows[student, name]["points"]) for name in FULL}

    zero = dict.fromkeys(FULL, 0)
    assert points("ana") == FULL
    assert points("bo") == points("cy") == points("gil") == zero
    assert points("dee") == FULL | {"round_to_nearest_even": 4}
    assert points("eve") == points("fay") == zero | {name: FULL[name] for name in ("decode", "round_to_nearest_even")}
    assert "a tie goes to the neighbour" in rows["dee", "round_to_nearest_even"]["note"]
    assert "ended the kernel (it begins with: import os)" in rows["eve", "neumaier_sum"]["note"]
    assert "took more than 20 s (it begins with: import time)" in rows["fay", "neumaier_sum"]["note"]
    assert "cannot be read as a notebook" in rows["gil", "decode"]["note"]
    assert "hal, - -: belongs to no chapter with exercises" in out
    assert out.splitlines()[1].split() == ["ana", "6/6", "6/6", "5/5", "5/5", "22/22"]


def test_two_notebooks_in_one_folder_are_told_apart(tmp_path):
    for name in ("float_formats_ana.ipynb", "float_formats_bo.ipynb"):
        (tmp_path / name).write_text("")
    assert grade._student(tmp_path / "float_formats_bo.ipynb") == "float_formats_bo"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The outputs of a cell with a failing check, and of one with a passing check, in a real kernel."""
    from nbclient import NotebookClient

    path = submit(tmp_path_factory.mktemp("shown") / "x", "solutions", TIES_AWAY)
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, kernel_name="python3", allow_errors=True, timeout=120).execute()
    return {cell.metadata["nbgrader"]["grade_id"]: cell.outputs for cell in nb.cells if "nbgrader" in cell.metadata}


def test_in_a_notebook_a_failure_shows_a_report_and_no_stack(shown):
    report, error = shown["check_round_to_nearest_even"]
    assert report.output_type == "display_data"
    assert "Halves go away from zero here" in report.data["text/html"]
    assert report.metadata[KEY]["points"] == 4
    assert error.ename == "CheckFailed"
    assert error.traceback == ["CheckFailed: 4 of 6 points. The report above says where to look."]


def test_in_a_notebook_a_success_is_one_line(shown):
    (result,) = shown["check_decode"]
    assert result.data["text/plain"] == "Exercise 1, decode: all 6 points. Well done."
    assert result.metadata[KEY]["score"] == 1.0


@pytest.mark.timeout(900)
def test_nbgrader_assigns_and_grades_the_notebooks_as_they_are(tmp_path):
    """`nbgrader generate_assignment`, `autograde` and `export`, run as an instructor would, without configuration."""
    submit(tmp_path / "source" / "ps06", "solutions")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def nbgrader(*arguments: str) -> None:
        command = [sys.executable, "-m", "nbgrader", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    nbgrader("generate_assignment", "ps06")
    released = tmp_path / "release" / "ps06" / NAME
    assert "BEGIN SOLUTION" not in released.read_text(encoding="utf-8")
    submit(tmp_path / "submitted" / "ana" / "ps06", "solutions")
    submit(tmp_path / "submitted" / "dee" / "ps06", "solutions", TIES_AWAY)
    (tmp_path / "submitted" / "bo" / "ps06").mkdir(parents=True)
    shutil.copy(released, tmp_path / "submitted" / "bo" / "ps06")
    nbgrader("autograde", "ps06")
    nbgrader("export")
    with (tmp_path / "grades.csv").open(encoding="utf-8") as file:
        scores = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    assert scores == {"ana": (22.0, 22.0), "bo": (0.0, 22.0), "dee": (20.0, 22.0)}

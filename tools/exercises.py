"""Make the students' copies of the exercises: `python -m tools.exercises [--check]`.

The only source of an exercise is its cell in notebooks/solutions/TOPIC.ipynb, with `### BEGIN SOLUTION` and
`### END SOLUTION` around what the student is to write, and the cell `check_NAME(NAME)` below it. This tool writes

- into that notebook, the metadata by which nbgrader knows solution and check cells and their points, so that it can be
  assigned and graded as it is;
- notebooks/exercises/TOPIC.ipynb: the same without solutions (and without cells tagged `solution`), made by
  nbgrader's own preprocessors, but with stubs that say which exercise they belong to.

With `--check` nothing is written and the exit code says whether anything would be.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

from course_utils.exercises import Check, checks_of
from tools.contents import NOTEBOOKS, ROOT, SOLUTIONS
from tools.execution import write

BEGIN = "### BEGIN SOLUTION"
CALL = re.compile(r"^check_(\w+)\((\w+)\)\s*\Z", re.M)  # the last line of a check cell
# As in `nbgrader generate_assignment`, but for the stubs, which ClearSolutions gets cell by cell, and the database.
PREPROCESSORS = (LockCells, ClearOutput, ComputeChecksums, ClearHiddenTests, ComputeChecksums, CheckCellMetadata)


def annotate(nb: NotebookNode, checks: list[Check]) -> None:
    """Write nbgrader's metadata into the solution and check cells of ``nb``.

    Raises:
        ValueError: when solutions, check cells and the checks of the chapter's module do not match one to one.
    """
    known = {check.name: check for check in checks}
    waiting: NotebookNode | None = None  # a solution whose check cell has not come yet
    for number, cell in enumerate(nb.cells, start=1):
        if cell.cell_type != "code":
            continue
        if BEGIN in cell.source:
            if waiting is not None:
                raise ValueError(f"cell {number} is a second solution before a check cell such as check_decode(decode)")
            waiting = cell
        elif call := CALL.search(cell.source):
            name = f"check_{call[1]}"
            if name not in known or call[1] != call[2]:
                raise ValueError(
                    f"cell {number} calls {call[0].strip()}; the chapter's checks are {', '.join(known) or 'none'}"
                )
            if waiting is None:
                raise ValueError(f"cell {number} calls {name}, but no cell with {BEGIN!r} stands above it")
            waiting.metadata["nbgrader"] = _metadata(waiting, call[1], solution=True)
            cell.metadata["nbgrader"] = _metadata(cell, name, points=len(known.pop(name)))
            waiting = None
    if waiting is not None:
        raise ValueError(f"the last solution has no check cell; add one with {' or '.join(known) or 'its check'}")
    if known:
        raise ValueError(f"{', '.join(known)} is defined for the chapter, but no cell calls it, or it is called twice")


def _metadata(cell: NotebookNode, grade_id: str, *, solution: bool = False, points: int = 0) -> dict[str, object]:
    return {
        "cell_type": cell.cell_type,
        "grade": not solution,
        "grade_id": grade_id,
        "locked": not solution,
        "schema_version": 3,
        "solution": solution,
        "task": False,
        **({} if solution else {"points": points}),
    }


def student_copy(nb: NotebookNode, checks: list[Check]) -> NotebookNode:
    """The students' copy of an annotated notebook: stubs for solutions, no outputs, locked checks."""
    copy = nbformat.from_dict(nb)  # a deep copy
    copy.cells = [cell for cell in copy.cells if "solution" not in cell.metadata.get("tags", [])]
    numbers = {check.answer: check.number for check in checks}
    for index, cell in enumerate(copy.cells):
        if cell.cell_type == "code" and BEGIN in cell.source:
            answer = cell.metadata["nbgrader"]["grade_id"]
            advice = f"Exercise {numbers[answer]}: write {answer}, then check it"
            stub = f'raise NotImplementedError("{advice}")'
            ClearSolutions(code_stub={"python": stub}).preprocess_cell(cell, {"language": "python"}, index)
    for preprocessor in PREPROCESSORS:
        copy, _ = preprocessor().preprocess(copy, {})
    return copy


def chapter_checks(notebook: Path) -> list[Check]:
    """The checks of the chapter to which a notebook belongs, from ``course_utils.exercises.TOPIC``."""
    return checks_of(importlib.import_module(f"course_utils.exercises.{notebook.stem}"))


def outputs(solution: Path) -> dict[Path, str]:
    """What one solutions notebook must look like and what follows from it: path -> text."""
    nb = nbformat.read(solution, as_version=4)
    checks = chapter_checks(solution)
    try:
        annotate(nb, checks)
    except ValueError as error:
        raise ValueError(f"{solution.relative_to(ROOT)}: {error}") from None
    exercise = NOTEBOOKS / "exercises" / solution.name
    return {
        path: nbformat.writes(n).rstrip("\n") + "\n"
        for path, n in ((solution, nb), (exercise, student_copy(nb, checks)))
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.exercises", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything is out of step")
    options = parser.parse_args(arguments)
    wanted: dict[Path, str] = {}
    for solution in SOLUTIONS:
        wanted |= outputs(solution)
    strangers = sorted(set((NOTEBOOKS / "exercises").glob("*.ipynb")) - set(wanted))
    for path in strangers:
        print(f"{path.relative_to(ROOT)}: has no source in notebooks/solutions; remove it")
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(
            f"{path.relative_to(ROOT)}: {'out of step; run python -m tools.exercises' if options.check else 'written'}"
        )
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, wanted[path])
    return 1 if strangers or (stale and options.check) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Grade submitted notebooks without a server: ``python -m course_utils.exercises.grade NOTEBOOK... [--csv out.csv]``.

Each notebook runs in a fresh kernel and in an empty folder, cell by cell, each with a time limit; errors do not stop
it. What counts are the package's own checks, put in anew below the cell of each exercise. What the submission's own
check cells show is not read, so nothing is gained by editing or deleting them. The kernel runs the student's code with
your rights, and code that sets out to change the package inside the kernel can: for strangers' code, use a container.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib
import pkgutil
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.utils import ensure_async
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from course_utils import exercises
from course_utils.exercises.check import Check, checks_of
from course_utils.exercises.report import KEY

SECONDS = 60.0


@dataclass(frozen=True)
class Grade:
    """The points of one student in one exercise, and a sentence where something is to be said."""

    student: str
    notebook: str
    exercise: str
    answer: str
    points: int
    out_of: int
    note: str = ""


def grade(path: Path, *, seed: int | None = None, seconds: float = SECONDS) -> list[Grade]:
    """Run and grade one submitted notebook. Whatever is wrong with it, there is a grade for each exercise.

    Args:
        path: the notebook; its name or its metadata says which chapter it belongs to.
        seed: the inputs of the checks; the same for all students, so that all are asked the same.
        seconds: how long one cell may take.
    """
    student = _student(path)
    unreadable = ""
    try:
        nb = nbformat.read(path, as_version=4)
    except Exception as error:  # not there, not JSON, no notebook: whatever was handed in
        nb = nbformat.v4.new_notebook()
        unreadable = f"cannot be read as a notebook: {_first_line(error)}"
    checks = _checks(path, nb)
    if not checks:
        note = "belongs to no chapter with exercises: name it as it was handed out, such as float_formats.ipynb"
        return [Grade(student, path.name, "-", "-", 0, 0, unreadable or note)]
    if unreadable:
        return [Grade(student, path.name, check.exercise, check.answer, 0, len(check), unreadable) for check in checks]
    nb, inserted = with_checks(nb, checks, seed)
    stopped = asyncio.run(_run(nb, seconds))
    return [_grade(student, path.name, check, inserted[check.name], stopped) for check in checks]


def with_checks(
    nb: NotebookNode, checks: list[Check], seed: int | None
) -> tuple[NotebookNode, dict[str, NotebookNode]]:
    """The notebook's code cells with the package's checks among them, and these: name -> cell.

    A check stands below the last cell that defines its function, or at the end.
    """
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    inserted: dict[str, NotebookNode] = {}
    for check in checks:
        defines = re.compile(rf"^(def|class)\s+{check.answer}\b|^{check.answer}\s*=", re.M)
        below = max((i for i, cell in enumerate(cells) if defines.search(cell.source)), default=len(cells) - 1)
        # The module is named in full: what a submission imported under the check's name does not matter.
        source = (
            f"import course_utils.exercises.{check.chapter} as _checks_of_the_course\n"
            f"_checks_of_the_course.{check.name}.report({check.answer}, seed={seed})"
        )
        inserted[check.name] = nbformat.v4.new_code_cell(source)
        cells.insert(below + 1, inserted[check.name])
    nb = nbformat.v4.new_notebook()
    nb.cells = cells  # these very cells, not copies: the caller reads the outputs of those it was given
    return nb, inserted


async def _run(nb: NotebookNode, seconds: float) -> str:
    """Run the cells in order; return the sentence that says why it ended early, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            nb,
            kernel_name="python3",
            timeout=None,
            allow_errors=True,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            async with client.async_setup_kernel():
                for index, cell in enumerate(nb.cells):
                    task = asyncio.ensure_future(client.async_execute_cell(cell, index))
                    await asyncio.wait({task}, timeout=seconds)
                    if not task.done():
                        # Code that swallows an interrupt would go on: the kernel ends, and with it the notebook.
                        await _kill(client)
                        await asyncio.gather(task, return_exceptions=True)
                        return f"a cell took more than {seconds:g} s ({_start(cell)}); what follows it was not run"
                    if isinstance(task.exception(), DeadKernelError):
                        return f"a cell ended the kernel ({_start(cell)}); what follows it was not run"
                    task.result()
        except Exception as error:
            return f"the kernel could not be used: {_first_line(error)}"
    return ""


async def _kill(client: NotebookClient) -> None:
    if client.km is not None:
        await ensure_async(client.km.shutdown_kernel(now=True))


def _grade(student: str, notebook: str, check: Check, cell: NotebookNode, stopped: str) -> Grade:
    """Read the result of one inserted check cell."""
    points, note = 0, stopped
    for output in cell.get("outputs", []):
        if output.output_type == "execute_result" and KEY in output.metadata:
            found: dict[str, Any] = output.metadata[KEY]
            points = int(found["points"])
            first = next((o for o in found["outcomes"] if o["status"] != "ok"), None)
            note = f"not ok: {first['title']}" if first else ""
        elif output.output_type == "error":
            note = f"{check.answer} is not defined" if output.ename == "NameError" else _first_line(output.evalue)
    return Grade(student, notebook, check.exercise, check.answer, points, len(check), note)


def _checks(path: Path, nb: NotebookNode) -> list[Check]:
    """The checks of the chapter that the metadata names, or else of the one that the file is named as."""
    chapter = str(nb.metadata.get("course", {}).get("chapter", ""))
    chapter = chapter if chapter in _chapters() else _named(path)
    return checks_of(importlib.import_module(f"course_utils.exercises.{chapter}")) if chapter else []


def _chapters() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(exercises.__path__) if module.ispkg]


def _named(path: Path) -> str:
    """The chapter with whose name a file's name begins: ``float_formats`` of ``float_formats_ana.ipynb``."""
    return max((name for name in _chapters() if path.name.startswith(name)), key=len, default="")


def _student(path: Path) -> str:
    """Whose notebook: ``ana/float_formats.ipynb``, or ``float_formats_ana.ipynb`` among others."""
    siblings = [p for p in path.resolve().parent.glob("*.ipynb") if _named(p) == _named(path)]
    return path.stem if len(siblings) > 1 else path.resolve().parent.name


def _start(cell: NotebookNode) -> str:
    lines = [line.strip() for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return f"it begins with: {lines[0][:60]}" if lines else "it is empty"


def _first_line(error: object) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def table(grades: list[Grade]) -> str:
    """Students in rows, exercises in columns, then a sentence for each exercise without all its points."""
    columns = sorted({(g.exercise, g.out_of) for g in grades if g.out_of})
    students = sorted({g.student for g in grades})
    width = max((len(student) for student in students), default=0)
    lines = [f"{'':{width}}  " + "".join(f"{name:>8}" for name, _ in columns) + f"{'total':>9}"]
    for student in students:
        own = {g.exercise: g for g in grades if g.student == student}
        marks = [f"{own[name].points}/{out_of}" if name in own else "-" for name, out_of in columns]
        total = f"{sum(g.points for g in own.values())}/{sum(g.out_of for g in own.values())}"
        lines.append(f"{student:{width}}  " + "".join(f"{mark:>8}" for mark in marks) + f"{total:>9}")
    lines += ["", *(f"{g.student}, {g.exercise} {g.answer}: {g.note}" for g in grades if g.note)]
    return "\n".join(lines).rstrip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.exercises.grade", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--csv", type=Path, help="write one line for each student and exercise to this file")
    parser.add_argument("--seed", type=int, default=0, help="the inputs of the checks (default 0)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time limit of a cell (default {SECONDS:g})")
    options = parser.parse_args(arguments)
    grades: list[Grade] = []
    for path in options.notebooks:
        print(f"{path.name} of {_student(path)} ...", file=sys.stderr)
        grades += grade(path, seed=options.seed, seconds=options.seconds)
    print(table(grades))
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Grade.__dataclass_fields__)
            writer.writerows([vars(g).values() for g in grades])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Prove a check: the solution passes, the stub, every wrong answer and every answer that does nothing fail.

A chapter's test file is a list of wrong answers and one line::

    WRONG = {
        "negate": [
            wrong("only positive", edit("-x", "abs(x)"), says="positive elements must change too"),
            wrong("in place", in_place, says="leave its arguments as they were"),
        ],
    }
    test_exercise = exercise_tests(float_formats, WRONG)

Most wrong answers are edits of the solution, which is read from notebooks/solutions; others are functions. A notebook
of solutions is run here once, with its checks; in a kernel only one of them all (`--thorough`: each).
"""

import functools
import linecache
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest

from course_utils.exercises import Check, Report, checks_of

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SEEDS = (0, 1, 2)  # a wrong answer must fail with each: a check that finds it by luck is no check
MORE_SEEDS = range(100, 120)  # for the solutions, with --thorough
LEAST = 5  # wrong answers for each exercise


@dataclass(frozen=True)
class Edit:
    """The solution with ``old`` replaced by ``new``; ``old`` must stand in it exactly once."""

    old: str
    new: str


def edit(old: str, new: str) -> Edit:
    return Edit(old, new)


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong answer, a piece of what its learner must read, and the points it may still get."""

    name: str
    answer: Edit | Callable[..., Any]
    says: str
    at_most: int | None = None


def wrong(name: str, answer: Edit | Callable[..., Any], *, says: str, at_most: int | None = None) -> Wrong:
    return Wrong(name, answer, says, at_most)


@functools.cache
def answers(notebook: Path) -> dict[str, Any]:
    """Run a notebook's cells, but for the set-up, and return what they define: name -> function.

    Of a notebook of solutions the checks are run too; in the students' copy there is nothing yet to check.
    """
    space: dict[str, Any] = {}
    solved = notebook.parent.name == "solutions"
    for cell in nbformat.read(notebook, as_version=4).cells:
        check = cell.metadata.get("nbgrader", {}).get("grade")
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []) and (solved or not check):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                warnings.simplefilter("error", RuntimeWarning)
                _execute(cell.source, f"{notebook.stem} {cell.id}", space)
    return space


def edited(notebook: Path, name: str, change: Edit) -> Any:
    """What the cell that defines ``name`` makes of it after a change."""
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = (cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)
    found = cell.source.count(change.old)
    assert found == 1, f"{change.old!r} stands {found} times in the solution of {name}, not once"
    space = dict(answers(notebook))
    _execute(cell.source.replace(change.old, change.new), f"{notebook.stem} {cell.id} {hash(change)}", space)
    return space[name]


def _execute(source: str, place: str, space: dict[str, Any]) -> None:
    """Run a cell; its lines can be shown, as those of a notebook can."""
    linecache.cache[f"<{place}>"] = (len(source), None, source.splitlines(keepends=True), f"<{place}>")
    exec(compile(source, f"<{place}>", "exec"), space)


def doing_nothing() -> dict[str, Callable[..., Any]]:
    """Answers that do nothing: whatever the exercise, they must get no point at all."""

    def like_first(fill: float) -> Callable[..., Any]:
        def answer(*args: Any) -> Any:
            shape, dtype = np.shape(args[0]), getattr(args[0], "dtype", np.float64)
            return np.full(shape, fill, dtype) if isinstance(args[0], np.ndarray) else fill

        return answer

    def typed(fill: float) -> Callable[..., Any]:
        return lambda *args: getattr(args[0], "dtype", np.dtype(np.float64)).type(fill)

    return {
        "returns nothing": lambda *args: None,
        "returns its argument": lambda *args: args[0],
        "returns a copy": lambda *args: np.array(args[0], dtype=getattr(args[0], "dtype", np.float64)),
        "returns its last argument": lambda *args: args[-1],
        **{f"returns {fill} in the shape of x": like_first(fill) for fill in (0.0, 1.0, np.nan, np.inf)},
        **{f"returns one {fill}": typed(fill) for fill in (0.0, 1.0, np.nan, np.inf)},
    }


def failures(report: Report) -> str:
    """Everything that a learner reads below the headline."""
    return str(report).split("\n", 1)[1]


@dataclass(frozen=True)
class Case:
    """One thing to prove about one check."""

    label: str
    prove: Callable[[Iterable[int]], None]

    def __str__(self) -> str:
        return self.label


def cases(chapter: ModuleType, wrongs: dict[str, list[Wrong]]) -> list[Case]:
    """All cases of one chapter's exercises, whose checks are in ``chapter``."""
    found: list[Case] = []
    checks = {c.answer: c for c in checks_of(chapter)}
    name = chapter.__name__.rpartition(".")[2]
    solutions, stubs = (NOTEBOOKS / folder / f"{name}.ipynb" for folder in ("solutions", "exercises"))

    def solution(check: Check, more_seeds: Iterable[int]) -> None:
        right = answers(solutions)[check.answer]
        for seed in (*SEEDS, *more_seeds):
            report = check.report(right, seed=seed)
            assert report.passed, str(report)
            assert not report.warnings, report.warnings

    def nothing(check: Check, _: Iterable[int]) -> None:
        report = check.report(answers(stubs)[check.answer])
        assert report.points == 0
        assert f"Exercise {check.number}: write {check.answer}" in failures(report)
        assert [outcome.status for outcome in report.outcomes[1:]] == ["not reached"] * (len(check) - 1)
        for label, answer in doing_nothing().items():
            report = check.report(answer, seed=0)
            assert report.points == 0, f"an answer that {label} gets {report.points} points\n{report}"

    def fails(check: Check, case: Wrong, _: Iterable[int]) -> None:
        answer = edited(solutions, check.answer, case.answer) if isinstance(case.answer, Edit) else case.answer
        for seed in SEEDS:
            report = check.report(answer, seed=seed)
            assert not report.passed, f"{case.name} passes"
            assert case.says in failures(report), str(report)
            assert case.at_most is None or report.points <= case.at_most, str(report)
            if any(label == "took" for outcome in report.outcomes for label, _ in outcome.details):
                break  # it was stopped by the clock, which knows no seed

    assert wrongs.keys() == checks.keys(), (
        f"wrong answers for {sorted(wrongs)}, but the checks are for {sorted(checks)}"
    )
    for name, check in checks.items():
        own = wrongs[name]
        assert len(own) >= LEAST, f"only {len(own)} wrong answers for {name}, at least {LEAST} are wanted"
        assert len({case.says for case in own}) == len(own), f"two wrong answers for {name} must get the same message"
        found.append(Case(f"{name}: the solution passes", functools.partial(solution, check)))
        found.append(Case(f"{name}: what does nothing gets no point", functools.partial(nothing, check)))
        found += [Case(f"{name}: {case.name}", functools.partial(fails, check, case)) for case in own]
    return found


def exercise_tests(
    chapter: ModuleType, wrongs: dict[str, list[Wrong]]
) -> Callable[[Case, pytest.FixtureRequest], None]:
    """A test function over all cases; assign it to a name that begins with ``test_``."""

    @pytest.mark.parametrize("case", cases(chapter, wrongs), ids=str)
    def test(case: Case, request: pytest.FixtureRequest) -> None:
        case.prove(MORE_SEEDS if request.config.getoption("--thorough") else ())

    return test

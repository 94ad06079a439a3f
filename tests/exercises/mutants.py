"""Prove a check: the solution passes, the stub, every wrong answer and every answer that does nothing fail.

A chapter's test file is a list of wrong answers and one line::

    WRONG = {
        "negate": [
            wrong("only positive", edit("-x", "abs(x)"), says="positive elements must change too"),
            wrong("in place", in_place, says="leave its arguments as they were"),
        ],
    }
    test_exercise = exercise_tests("float_formats", WRONG)

Most wrong answers are edits of the solution, which is read from notebooks/solutions; others are functions.
"""

import importlib
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from course_utils.exercises import Check, Report, checks_of

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SEEDS = (0, 1, 2)  # a wrong answer must fail with each: a check that finds it by luck is no check
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


def answers(notebook: Path, edits: dict[str, Edit] | None = None) -> dict[str, Any]:
    """Run a notebook's cells, but for set-up and checks, and return what they define: name -> function.

    ``edits`` changes the source of the cell that defines a name.
    """
    space: dict[str, Any] = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        nbgrader = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or "setup" in cell.metadata.get("tags", []) or nbgrader.get("grade"):
            continue
        source = cell.source
        if change := (edits or {}).get(nbgrader.get("grade_id", "")):
            found = source.count(change.old)
            assert found == 1, (
                f"{change.old!r} stands {found} times in the solution of {nbgrader['grade_id']}, not once"
            )
            source = source.replace(change.old, change.new)
        name = f"<{notebook.stem} {cell.id} {hash(source)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), space)
    return space


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
    prove: Callable[[], None]

    def __str__(self) -> str:
        return self.label


def cases(notebook: str, wrongs: dict[str, list[Wrong]]) -> list[Case]:
    """All cases of one chapter's exercises."""
    found: list[Case] = []
    checks = {c.answer: c for c in checks_of(importlib.import_module(f"course_utils.exercises.{notebook}"))}
    solutions, stubs = (NOTEBOOKS / folder / f"{notebook}.ipynb" for folder in ("solutions", "exercises"))

    def solution(check: Check) -> None:
        right = answers(solutions)[check.answer]
        for seed in (*SEEDS, *range(100, 120)):
            report = check.report(right, seed=seed)
            assert report.passed, str(report)
            assert not report.warnings, report.warnings
        assert "Well done" in repr(check(right))

    def stub(check: Check) -> None:
        report = check.report(answers(stubs)[check.answer])
        assert report.points == 0
        assert f"Exercise {check.number}: write {check.answer}" in failures(report)
        assert [outcome.status for outcome in report.outcomes[1:]] == ["not reached"] * (len(check) - 1)

    def nothing(check: Check, answer: Callable[..., Any]) -> None:
        report = check.report(answer, seed=0)
        assert report.points == 0, str(report)

    def fails(check: Check, case: Wrong) -> None:
        answer = case.answer
        if isinstance(answer, Edit):
            answer = answers(solutions, {check.answer: answer})[check.answer]
        for seed in SEEDS:
            report = check.report(answer, seed=seed)
            assert not report.passed, f"{case.name} passes"
            assert case.says in failures(report), str(report)
            assert case.at_most is None or report.points <= case.at_most, str(report)

    def own_reasons(cases: list[Wrong]) -> None:
        assert len(cases) >= LEAST, f"only {len(cases)} wrong answers, at least {LEAST} are wanted"
        assert len({case.says for case in cases}) == len(cases), "two wrong answers share the message they must get"

    assert wrongs.keys() == checks.keys(), (
        f"wrong answers for {sorted(wrongs)}, but the checks are for {sorted(checks)}"
    )
    for name, check in checks.items():
        found.append(Case(f"{name}: the solution passes", lambda c=check: solution(c)))
        found.append(Case(f"{name}: the stub fails", lambda c=check: stub(c)))
        found.append(Case(f"{name}: wrong answers have reasons of their own", lambda n=name: own_reasons(wrongs[n])))
        for label, answer in doing_nothing().items():
            found.append(Case(f"{name}: {label}", lambda c=check, a=answer: nothing(c, a)))
        for case in wrongs[name]:
            found.append(Case(f"{name}: {case.name}", lambda c=check, w=case: fails(c, w)))
    return found


def exercise_tests(notebook: str, wrongs: dict[str, list[Wrong]]) -> Callable[[Case], None]:
    """A test function over all cases; assign it to a name that begins with ``test_``."""

    @pytest.mark.parametrize("case", cases(notebook, wrongs), ids=str)
    def test(case: Case) -> None:
        case.prove()

    return test

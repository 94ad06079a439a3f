"""A check: the points of one exercise, run against what the learner wrote."""

from __future__ import annotations

import inspect
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.limits import OutOfTime, learner_line, run_limited
from course_utils.exercises.report import CheckFailed, Outcome, Report, autograding

Look = Callable[[Answer, np.random.Generator], None]


@dataclass(frozen=True)
class Point:
    """One property: its name in words, how to look at it, and what to read when it does not hold."""

    title: str
    look: Look
    hint: str


class Check:
    """The check of one exercise; call it with the learner's function.

    Every point must reject an answer that does nothing: one that returns its argument, zeros or NaN gets no point, and
    the tests of each exercise try that. So "the argument is left alone" is no point of its own; ``Answer`` demands it
    in every call.

    Args:
        exercise: chapter and number, such as ``"float_formats.1"``.
        answer: the name of what the learner writes.
        parameters: the names of its parameters, in order.
        seconds: how long one point may take, generously; a learner waits that long for an endless loop.
    """

    def __init__(self, exercise: str, answer: str, parameters: tuple[str, ...], *, seconds: float = 5.0) -> None:
        self.exercise = exercise
        self.answer = answer
        self.parameters = parameters
        self.seconds = seconds
        self.points: list[Point] = []

    @property
    def chapter(self) -> str:
        """The chapter's name, such as ``"float_formats"``."""
        return self.exercise.rpartition(".")[0]

    @property
    def number(self) -> int:
        """The exercise's place in its chapter, from 1."""
        return int(self.exercise.rpartition(".")[2])

    @property
    def name(self) -> str:
        """What the learner calls: ``check_decode``."""
        return f"check_{self.answer}"

    @property
    def signature(self) -> str:
        return f"{self.answer}({', '.join(self.parameters)})"

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"{self.name}({self.answer}): exercise {self.exercise}, {len(self)} points"

    def point(self, title: str, *, hint: str) -> Callable[[Look], Look]:
        """Decorator: add a point, a function of the wrapped answer and a generator that raises ``NotOk`` or returns."""

        def add(look: Look) -> Look:
            self.points.append(Point(title, look, hint))
            return look

        return add

    def __call__(self, answer: Callable[..., Any], *, seed: int | None = None) -> Report:
        """Check ``answer`` on fresh random inputs, or on those of ``seed``.

        Returns:
            the report, when every point is ok. (Under ``nbgrader autograde`` always, for partial credit.)

        Raises:
            CheckFailed: when a point is not ok. It carries the report.
        """
        report = self.report(answer, seed=seed)
        if not report.passed and not autograding():
            raise CheckFailed(report)
        return report

    def report(self, answer: Callable[..., Any], *, seed: int | None = None) -> Report:
        """Like a call, but a point that is not ok raises nothing."""
        seed = secrets.randbelow(10**6) if seed is None else seed
        outcomes: list[Outcome] = []
        end = self._unusable(answer)  # the problem after which there is nothing more to see
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for index, point in enumerate(self.points):
                if end and outcomes:
                    outcomes.append(Outcome(point.title, "not reached"))
                    continue
                rng = np.random.default_rng([seed, index])  # a point sees the same inputs whatever the others drew
                problem = end or self._look(point, Answer(answer, self.answer), rng)
                outcomes.append(_outcome(point, problem, outcomes))
                end = problem if problem and problem.ends else None
        heard = dict.fromkeys(f"{warning.category.__name__}: {warning.message}" for warning in caught)
        return Report(self.exercise, self.answer, tuple(outcomes), seed, tuple(heard))

    def _look(self, point: Point, answer: Answer, rng: np.random.Generator) -> NotOk | None:
        try:
            run_limited(lambda: point.look(answer, rng), self.seconds)
        except NotOk as problem:
            return problem
        except OutOfTime as late:
            where = learner_line(late.__traceback__, answer.function)
            return NotOk(
                ("took", f"more than {self.seconds:g} s, then it was stopped"),
                *((("where", where),) if where else ()),
                hint="Is there a loop that never ends? Look at what changes from one turn to the next.",
                ends=True,
            )
        except Exception as error:  # the result was of a kind that the check could not work with
            return NotOk(
                ("raised", f"{type(error).__name__}: {error}"),
                hint=f"The check could not use what {answer.name} returned. Is it of the kind the task asks for?",
            )
        return None

    def _unusable(self, answer: object) -> NotOk | None:
        """What is wrong before the first call: no function, or one that takes other parameters."""
        if not callable(answer):
            return NotOk(
                ("got", f"a {type(answer).__name__}"),
                hint=f"Give the check the function itself, without calling it: {self.name}({self.answer}).",
                ends=True,
            )
        try:
            signature = inspect.signature(answer)
        except (TypeError, ValueError):  # some built-in functions have none
            return None
        try:
            signature.bind(*self.parameters)
        except TypeError:
            return NotOk(
                ("expected", self.signature),
                ("got", f"{getattr(answer, '__name__', self.answer)}{signature}"),
                hint=f"The check calls {self.signature}, with its arguments in this order.",
                ends=True,
            )
        return None


def _outcome(point: Point, problem: NotOk | None, before: list[Outcome]) -> Outcome:
    if problem is None:
        return Outcome(point.title, "ok")
    seen = dict(problem.details)
    if "where" in seen and any(("where", seen["where"]) in outcome.details for outcome in before):
        return Outcome(point.title, "not ok", (("raised", "the same as above, in the same line"),))
    return Outcome(point.title, "not ok", problem.details, problem.hint or point.hint)


def checks_of(module: ModuleType) -> list[Check]:
    """The checks that a chapter's module defines, by their number."""
    return sorted((value for value in vars(module).values() if isinstance(value, Check)), key=lambda c: c.number)

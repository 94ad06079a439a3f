"""What a check found, as text for a terminal, as HTML for a notebook and as JSON for a grader."""

from __future__ import annotations

import html
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

KEY = "course_check"  # where the payload stands in an output's metadata; there no front end tries to draw it
Status = Literal["ok", "not ok", "not reached"]

# Only borders and marks are coloured; the text keeps the page's own colour, so it is readable in light and dark.
_COLOUR: dict[Status, str] = {"ok": "#009E73", "not ok": "#D55E00", "not reached": "#888888"}
_MARK: dict[Status, str] = {"ok": "✓", "not ok": "✗", "not reached": "–"}


@dataclass(frozen=True)
class Outcome:
    """How one point stands.

    Args:
        title: the property, in words.
        status: ``ok``, ``not ok``, or ``not reached`` when the check ended before it.
        details: what was seen, as (label, text) pairs such as ``("got", "0.5")``.
        hint: where to look.
    """

    title: str
    status: Status
    details: tuple[tuple[str, str], ...] = ()
    hint: str = ""

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        return self.details + ((("look at", self.hint),) if self.hint else ())


@dataclass(frozen=True)
class Report:
    """What a check found. The last value of a cell shows itself; ``print`` gives every point.

    Args:
        exercise: its chapter and number, such as ``"float_formats.1"``.
        answer: the name of what the learner wrote.
        outcomes: one for each point, in order.
        seed: replays the same inputs: ``check_decode(decode, seed=...)``.
        warnings: what the learner's code warned of while it was checked.
    """

    exercise: str
    answer: str
    outcomes: tuple[Outcome, ...]
    seed: int
    warnings: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """How many points are ok."""
        return sum(outcome.status == "ok" for outcome in self.outcomes)

    @property
    def score(self) -> float:
        """The fraction of the points that are ok, in [0, 1]."""
        return self.points / len(self.outcomes)

    @property
    def passed(self) -> bool:
        return self.points == len(self.outcomes)

    @property
    def headline(self) -> str:
        """One line: ``Exercise 1, decode: 4 of 6 points``."""
        count = f"all {len(self.outcomes)}" if self.passed else f"{self.points} of {len(self.outcomes)}"
        number = self.exercise.rpartition(".")[2]
        return f"Exercise {number}, {self.answer}: {count} points"

    def payload(self) -> dict[str, Any]:
        """What a grader reads: plain values, fit for JSON."""
        return {
            "exercise": self.exercise,
            "answer": self.answer,
            "points": self.points,
            "out_of": len(self.outcomes),
            "score": self.score,
            "seed": self.seed,
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        return f"{self.headline}. Well done." if self.passed else self.headline

    def __str__(self) -> str:
        lines = [self.headline]
        for outcome in self.outcomes:
            lines.append(f"  {outcome.status:<13}{outcome.title}")
            for label, text in outcome.rows:
                lines.append(f"{'':15}{label:<10}{text}".rstrip())
        lines += [f"  your code warned: {warning}" for warning in self.warnings]
        if not self.passed:
            lines.append(f"  {self._replay}")
        return "\n".join(lines)

    @property
    def _replay(self) -> str:
        return f"The inputs are new each time; check_{self.answer}({self.answer}, seed={self.seed}) repeats these."

    def _repr_html_(self) -> str:
        items = "".join(_item(outcome) for outcome in self.outcomes)
        listing = f'<ul style="list-style:none;margin:.4rem 0 0;padding:0">{items}</ul>'
        foot = "".join(f"<div>Your code warned: <code>{html.escape(warning)}</code></div>" for warning in self.warnings)
        if self.passed:
            body = f"<details><summary>{html.escape(repr(self))}</summary>{listing}</details>{foot}"
        else:
            foot += f'<div style="margin-top:.4rem;font-size:90%">{html.escape(self._replay)}</div>'
            body = f"<strong>{html.escape(self.headline)}</strong>{listing}{foot}"
        colour = _COLOUR["ok" if self.passed else "not ok"]
        style = f"border-left:4px solid {colour};padding:.3rem 0 .3rem .9rem;margin:.5rem 0;line-height:1.5"
        return f'<div class="course-check" style="{style}">{body}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        # nbgrader reads the number of points from the plain text of the cell's value.
        plain = str(self.points) if autograding() else repr(self) if self.passed else str(self)
        return {"text/plain": plain, "text/html": self._repr_html_()}, {KEY: self.payload()}


def _item(outcome: Outcome) -> str:
    """One point as an HTML list item: its mark, its title and, below, what was seen."""
    style = f"color:{_COLOUR[outcome.status]};font-weight:bold"
    mark = f'<span style="{style}" aria-hidden="true">{_MARK[outcome.status]}</span>'
    rows = "".join(
        f'<dt style="font-weight:normal;opacity:.85">{html.escape(label)}</dt>'
        f'<dd style="margin:0;overflow-wrap:anywhere">{_code(text) if label != "look at" else html.escape(text)}</dd>'
        for label, text in outcome.rows
    )
    if rows:
        grid = "display:grid;grid-template-columns:max-content 1fr;column-gap:1rem;margin:.1rem 0 .5rem"
        rows = f'<dl style="{grid}">{rows}</dl>'
    return (
        '<li style="display:grid;grid-template-columns:1.5rem 1fr;margin:0">'
        f"{mark}<div>{html.escape(outcome.title)} <small>({outcome.status})</small>{rows}</div></li>"
    )


def _code(text: str) -> str:
    style = "white-space:pre-wrap;color:inherit;background:none;border:0;padding:0"
    return f'<code style="{style}">{html.escape(text)}</code>'


def autograding() -> bool:
    """Whether ``nbgrader autograde`` runs us. It gives a cell that raises no partial credit, so checks then return."""
    return os.environ.get("NBGRADER_EXECUTION") == "autograde"


class CheckFailed(AssertionError):
    """A check found something. A notebook shows its report and no stack trace; elsewhere ``str`` is the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report
        self._shown = False

    def __str__(self) -> str:
        return str(self.report)

    def _render_traceback_(self) -> list[str]:
        # IPython calls this when nobody caught the exception, and a second time for its history.
        if not self._shown:
            from IPython.display import display

            self._shown = True
            display(self.report)
        count = f"{self.report.points} of {len(self.report.outcomes)} points"
        return [f"{type(self).__name__}: {count}. The report above says where to look."]

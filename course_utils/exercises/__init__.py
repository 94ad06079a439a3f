"""The exercises' checks, a folder for each chapter, named as it, and what they are made of.

A check is a list of points; each is a property that the chapter taught, looked at on fresh random inputs::

    check_negate = Check("float_formats.0", "negate", parameters=("x",))

    @check_negate.point("every element changes its sign", hint="What is the sign bit of zero?")
    def _(negate: Answer, rng: np.random.Generator) -> None:
        x = rng.normal(size=(3, 1, 5))
        negate.expect(-x, x, suspects={"That is |x|: positive elements must change too.": abs(x)})

The learner calls ``check_negate(negate)``. An instructor runs ``python -m course_utils.exercises.grade NOTEBOOK...``.
"""

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check, checks_of
from course_utils.exercises.report import CheckFailed, Outcome, Report

__all__ = ["Answer", "Check", "CheckFailed", "NotOk", "Outcome", "Report", "checks_of"]

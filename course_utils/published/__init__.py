"""Other people's numbers: what papers, logs and model cards print, worked out anew with the formulas of this course."""

from course_utils.published.check import Check
from course_utils.published.page import all_checks, page

__all__ = ["Check", "all_checks", "page"]

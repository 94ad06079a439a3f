"""Figures for the book: matplotlib drawings that follow the page's theme, interactive figures, and shown source."""

from course_utils.figures.interactive import interactive, tabulate
from course_utils.figures.source import source
from course_utils.figures.style import PALETTE, show, subplots
from course_utils.figures.tables import table

__all__ = ["PALETTE", "interactive", "show", "source", "subplots", "table", "tabulate"]

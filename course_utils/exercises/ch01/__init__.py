"""The checks of chapter 01, memory and time."""

from course_utils.exercises.ch01.accumulating import check_accumulate
from course_utils.exercises.ch01.fitting import check_largest_batch
from course_utils.exercises.ch01.recomputing import check_recompute

__all__ = ["check_accumulate", "check_largest_batch", "check_recompute"]

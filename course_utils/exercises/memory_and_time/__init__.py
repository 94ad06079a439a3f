"""The checks of memory and time."""

from course_utils.exercises.memory_and_time.accumulating import check_accumulate
from course_utils.exercises.memory_and_time.fitting import check_largest_batch
from course_utils.exercises.memory_and_time.recomputing import check_recompute

__all__ = ["check_accumulate", "check_largest_batch", "check_recompute"]

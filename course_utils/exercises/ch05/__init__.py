"""The checks of chapter 05, hybrid parallelism."""

from course_utils.exercises.ch05.grid import check_groups
from course_utils.exercises.ch05.norm import check_global_norm
from course_utils.exercises.ch05.placement import check_slow_bytes

__all__ = ["check_global_norm", "check_groups", "check_slow_bytes"]

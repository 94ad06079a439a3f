"""The checks of chapter 03, pipeline parallelism."""

from course_utils.exercises.ch03.balance import check_balanced_cut
from course_utils.exercises.ch03.bubble import check_enough_micro_batches
from course_utils.exercises.ch03.program import check_one_f_one_b

__all__ = ["check_balanced_cut", "check_enough_micro_batches", "check_one_f_one_b"]

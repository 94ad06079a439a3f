"""The checks of pipeline parallelism."""

from course_utils.exercises.pipeline_parallelism.balance import check_balanced_cut
from course_utils.exercises.pipeline_parallelism.bubble import check_enough_micro_batches
from course_utils.exercises.pipeline_parallelism.program import check_one_f_one_b

__all__ = ["check_balanced_cut", "check_enough_micro_batches", "check_one_f_one_b"]

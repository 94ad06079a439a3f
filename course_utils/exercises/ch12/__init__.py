"""The checks of chapter 12, sorting news titles."""

from course_utils.exercises.ch12.loading import check_load_tuned
from course_utils.exercises.ch12.padding import check_pad_batch
from course_utils.exercises.ch12.scores import check_macro_f1

__all__ = ["check_load_tuned", "check_macro_f1", "check_pad_batch"]

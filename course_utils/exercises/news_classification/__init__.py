"""The checks of sorting news titles."""

from course_utils.exercises.news_classification.loading import check_load_tuned
from course_utils.exercises.news_classification.padding import check_pad_batch
from course_utils.exercises.news_classification.scores import check_macro_f1

__all__ = ["check_load_tuned", "check_macro_f1", "check_pad_batch"]

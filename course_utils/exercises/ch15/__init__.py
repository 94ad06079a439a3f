"""The checks of chapter 15, a Vision Transformer from scratch on many processes."""

from course_utils.exercises.ch15.counting import check_global_metrics
from course_utils.exercises.ch15.rates import check_rate_at
from course_utils.exercises.ch15.sharing import check_my_images

__all__ = ["check_global_metrics", "check_my_images", "check_rate_at"]

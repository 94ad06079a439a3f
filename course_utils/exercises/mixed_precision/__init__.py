"""The checks of mixed precision."""

from course_utils.exercises.mixed_precision.clipping import check_unscale_and_clip
from course_utils.exercises.mixed_precision.dynamic import check_scale_trace
from course_utils.exercises.mixed_precision.safe_scale import check_largest_safe_scale

__all__ = ["check_largest_safe_scale", "check_scale_trace", "check_unscale_and_clip"]

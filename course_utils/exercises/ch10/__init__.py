"""The checks of chapter 10, soft prompts."""

from course_utils.exercises.ch10.cost import check_step_macs
from course_utils.exercises.ch10.in_front import check_put_in_front
from course_utils.exercises.ch10.prefix import check_attend_with_prefix

__all__ = ["check_attend_with_prefix", "check_put_in_front", "check_step_macs"]

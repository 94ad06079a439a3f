"""The checks of soft prompts."""

from course_utils.exercises.soft_prompts.cost import check_step_macs
from course_utils.exercises.soft_prompts.in_front import check_put_in_front
from course_utils.exercises.soft_prompts.prefix import check_attend_with_prefix

__all__ = ["check_attend_with_prefix", "check_put_in_front", "check_step_macs"]

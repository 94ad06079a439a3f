"""The checks of ZeRO from scratch."""

from course_utils.exercises.zero_from_scratch.momentum import check_sharded_step
from course_utils.exercises.zero_from_scratch.owned import check_owned
from course_utils.exercises.zero_from_scratch.peak import check_peak_parameters

__all__ = ["check_owned", "check_peak_parameters", "check_sharded_step"]

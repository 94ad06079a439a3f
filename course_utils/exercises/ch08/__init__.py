"""The checks of chapter 08, ZeRO from scratch."""

from course_utils.exercises.ch08.momentum import check_sharded_step
from course_utils.exercises.ch08.owned import check_owned
from course_utils.exercises.ch08.peak import check_peak_parameters

__all__ = ["check_owned", "check_peak_parameters", "check_sharded_step"]

"""The checks of chapter 09, DeepSpeed and FSDP2."""

from course_utils.exercises.ch09.configuring import check_configure
from course_utils.exercises.ch09.faults import check_find_fault
from course_utils.exercises.ch09.resharding import check_reshard

__all__ = ["check_configure", "check_find_fault", "check_reshard"]

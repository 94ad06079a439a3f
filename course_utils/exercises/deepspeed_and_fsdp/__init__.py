"""The checks of DeepSpeed and FSDP2."""

from course_utils.exercises.deepspeed_and_fsdp.configuring import check_configure
from course_utils.exercises.deepspeed_and_fsdp.faults import check_find_fault
from course_utils.exercises.deepspeed_and_fsdp.resharding import check_reshard

__all__ = ["check_configure", "check_find_fault", "check_reshard"]

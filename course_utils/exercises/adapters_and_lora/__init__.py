"""The checks of adapters and LoRA."""

from course_utils.exercises.adapters_and_lora.low_rank import check_low_rank
from course_utils.exercises.adapters_and_lora.row_by_row import check_row_by_row
from course_utils.exercises.adapters_and_lora.step_bytes import check_step_bytes

__all__ = ["check_low_rank", "check_row_by_row", "check_step_bytes"]

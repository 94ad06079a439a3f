"""The checks of hybrid parallelism."""

from course_utils.exercises.hybrid_parallelism.grid import check_groups
from course_utils.exercises.hybrid_parallelism.norm import check_global_norm
from course_utils.exercises.hybrid_parallelism.placement import check_slow_bytes

__all__ = ["check_global_norm", "check_groups", "check_slow_bytes"]

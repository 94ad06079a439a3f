"""The checks of data parallelism."""

from course_utils.exercises.data_parallelism.averaging import check_average_in_buckets
from course_utils.exercises.data_parallelism.buckets import check_cut_into_buckets
from course_utils.exercises.data_parallelism.ring import check_chunk_to_send
from course_utils.exercises.data_parallelism.weights import check_global_gradient

__all__ = ["check_average_in_buckets", "check_chunk_to_send", "check_cut_into_buckets", "check_global_gradient"]

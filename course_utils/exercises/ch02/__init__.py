"""The checks of chapter 02, data parallelism."""

from course_utils.exercises.ch02.averaging import check_average_in_buckets
from course_utils.exercises.ch02.buckets import check_cut_into_buckets
from course_utils.exercises.ch02.ring import check_chunk_to_send
from course_utils.exercises.ch02.weights import check_global_gradient

__all__ = ["check_average_in_buckets", "check_chunk_to_send", "check_cut_into_buckets", "check_global_gradient"]

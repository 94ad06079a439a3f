"""Data parallelism: every rank holds the whole model and a part of the batch; gradients are averaged."""

from course_utils.data_parallel.collectives import Move, ring_all_reduce, root_all_reduce
from course_utils.data_parallel.data_parallel import DataParallel
from course_utils.data_parallel.replicas import global_mean, root_step

__all__ = ["DataParallel", "Move", "global_mean", "ring_all_reduce", "root_all_reduce", "root_step"]

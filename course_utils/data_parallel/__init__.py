"""Data parallelism: every rank holds the whole model and a part of the batch; gradients are averaged."""

from course_utils.data_parallel.collectives import (
    Move,
    broadcast,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    root_all_reduce,
    tree_all_reduce,
)
from course_utils.data_parallel.data_parallel import DataParallel
from course_utils.data_parallel.replicas import global_mean, root_step

__all__ = [
    "DataParallel",
    "Move",
    "broadcast",
    "global_mean",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_reduce_scatter",
    "root_all_reduce",
    "root_step",
    "tree_all_reduce",
]

"""Tensor parallelism: every rank holds a part of each matrix; what they compute in parts is summed."""

from course_utils.tensor.layers import shards_of
from course_utils.tensor.sequence import SequenceParallelLayers
from course_utils.tensor.tensor_parallel import PLANS, full_state_dict, shard_state_dict, tensor_parallel
from course_utils.tensor.vocabulary import vocabulary_parallel_cross_entropy

__all__ = [
    "PLANS",
    "SequenceParallelLayers",
    "full_state_dict",
    "shard_state_dict",
    "shards_of",
    "tensor_parallel",
    "vocabulary_parallel_cross_entropy",
]

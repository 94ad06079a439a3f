"""Tensor parallelism: every rank holds a part of each matrix; what they compute in parts is summed."""

from course_utils.tensor.tensor_parallel import (
    SequenceParallelEncoder,
    cut_state_dict,
    cuts_of,
    full_state_dict,
    tensor_parallel,
)
from course_utils.tensor.vocabulary import vocabulary_parallel_cross_entropy

__all__ = [
    "SequenceParallelEncoder",
    "cut_state_dict",
    "cuts_of",
    "full_state_dict",
    "tensor_parallel",
    "vocabulary_parallel_cross_entropy",
]

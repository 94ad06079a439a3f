"""The checks of tensor parallelism."""

from course_utils.exercises.tensor_parallelism.losses import check_merge_losses
from course_utils.exercises.tensor_parallelism.mlp import check_cut_mlp
from course_utils.exercises.tensor_parallelism.qkv import check_cut_qkv

__all__ = ["check_cut_mlp", "check_cut_qkv", "check_merge_losses"]

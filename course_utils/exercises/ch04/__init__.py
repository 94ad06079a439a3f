"""The checks of chapter 04, tensor parallelism."""

from course_utils.exercises.ch04.losses import check_merge_losses
from course_utils.exercises.ch04.mlp import check_cut_mlp
from course_utils.exercises.ch04.qkv import check_cut_qkv

__all__ = ["check_cut_mlp", "check_cut_qkv", "check_merge_losses"]

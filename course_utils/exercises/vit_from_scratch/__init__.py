"""The checks of the Vision Transformer."""

from course_utils.exercises.vit_from_scratch.attention import check_masked_attention
from course_utils.exercises.vit_from_scratch.counting import check_count_parameters
from course_utils.exercises.vit_from_scratch.patches import check_cut_into_patches
from course_utils.exercises.vit_from_scratch.positions import check_stretch_positions

__all__ = ["check_count_parameters", "check_cut_into_patches", "check_masked_attention", "check_stretch_positions"]

"""The checks of chapter 13, the Vision Transformer."""

from course_utils.exercises.ch13.attention import check_masked_attention
from course_utils.exercises.ch13.counting import check_count_parameters
from course_utils.exercises.ch13.patches import check_cut_into_patches
from course_utils.exercises.ch13.positions import check_stretch_positions

__all__ = ["check_count_parameters", "check_cut_into_patches", "check_masked_attention", "check_stretch_positions"]

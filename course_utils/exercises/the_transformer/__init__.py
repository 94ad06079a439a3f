"""The checks of the Transformer."""

from course_utils.exercises.the_transformer.attention import check_causal_attention
from course_utils.exercises.the_transformer.counting import check_count_decoder
from course_utils.exercises.the_transformer.rotary import check_turn

__all__ = ["check_causal_attention", "check_count_decoder", "check_turn"]

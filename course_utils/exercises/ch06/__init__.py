"""The checks of chapter 06, float formats."""

from course_utils.exercises.ch06.decode import check_decode
from course_utils.exercises.ch06.rounding import check_round_to_nearest_even
from course_utils.exercises.ch06.stochastic import check_stochastic_round
from course_utils.exercises.ch06.summation import check_neumaier_sum

__all__ = ["check_decode", "check_neumaier_sum", "check_round_to_nearest_even", "check_stochastic_round"]

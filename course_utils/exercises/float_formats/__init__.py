"""The checks of float formats."""

from course_utils.exercises.float_formats.decode import check_decode
from course_utils.exercises.float_formats.rounding import check_round_to_nearest_even
from course_utils.exercises.float_formats.stochastic import check_stochastic_round
from course_utils.exercises.float_formats.summation import check_neumaier_sum

__all__ = ["check_decode", "check_neumaier_sum", "check_round_to_nearest_even", "check_stochastic_round"]

"""The formats that the exercises ask about."""

from course_utils.precision.formats import Format


def ieee(exponent_bits: int, mantissa_bits: int) -> Format:
    """A format by the rules of IEEE 754: bias 2^(e-1) - 1, the largest exponent field kept for infinity and NaN."""
    return Format(f"1/{exponent_bits}/{mantissa_bits}", exponent_bits, mantissa_bits, bias=2 ** (exponent_bits - 1) - 1)

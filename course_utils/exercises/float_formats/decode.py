"""06.1: decode the code of a small IEEE-like float."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.exercises.float_formats.layouts import ieee
from course_utils.precision.formats import FP32, Format

Rng = np.random.Generator

check_decode = Check("float_formats.1", "decode", parameters=("code", "exponent_bits", "mantissa_bits"))


def _widths(rng: Rng, count: int = 4) -> list[Format]:
    """Formats of odd widths, and FP32."""
    return [ieee(int(rng.integers(2, 9)), int(rng.integers(1, 13))) for _ in range(count)] + [FP32]


def _decodes(decode: Answer, fmt: Format, code: int, **suspects: float) -> None:
    text = format(code, f"0{fmt.bits}b")
    fields = f"{text[0]} {text[1 : 1 + fmt.exponent_bits]} {text[1 + fmt.exponent_bits :]}"
    decode.expect(
        float(fmt.decode(code)),
        code,
        fmt.exponent_bits,
        fmt.mantissa_bits,
        given=f"{decode.name}({code}, {fmt.exponent_bits}, {fmt.mantissa_bits}), bits {fields}",
        suspects={_SUSPECTS[name]: value for name, value in suspects.items()},
    )


_SUSPECTS = {
    "no_bias": "The stored exponent is larger than the true one by the bias: it is not subtracted here.",
    "twice": "The bias is subtracted twice here.",
    "added": "Encoding adds the bias; decoding must subtract it. It is added here.",
    "hidden_twice": "The hidden bit is counted twice here: the significand is 1 + M / 2^m, between 1 and 2.",
    "no_hidden": "The hidden bit is missing here: a normal number has the significand 1 + M / 2^m.",
    "bias_off": "The bias is off by one: with e exponent bits it is 2^(e-1) - 1, which is 127 for e = 8.",
    "hidden_in_subnormal": "A subnormal number (exponent field 0) has no hidden bit: its significand is M / 2^m.",
    "exponent_of_subnormal": "A subnormal has the exponent 1 - bias, like the smallest normal number, not 0 - bias.",
    "no_sign": "The first bit is the sign: 1 makes the number negative. The sign is lost here.",
}


def _explained(fmt: Format, code: int) -> dict[str, float]:
    """The known mistakes in decoding a positive normal code -> what each gives."""
    _, exponent, mantissa = (int(field) for field in fmt.fields(code))
    significand = 1 + mantissa / 2**fmt.mantissa_bits
    true = exponent - fmt.bias
    return {
        "no_bias": _power(significand, exponent),
        "twice": _power(significand, true - fmt.bias),
        "added": _power(significand, exponent + fmt.bias),
        "hidden_twice": _power(significand + 1, true),
        "no_hidden": _power(significand - 1, true),
        "bias_off": _power(significand, true - 1),
    }


def _power(significand: float, exponent: int) -> float:
    return significand * 2.0**exponent  # exponents here stay within those of float64


@check_decode.point(
    "normal numbers of FP32: the bias is subtracted once, the hidden bit counts once",
    hint="A normal number is 2^(E - bias) * (1 + M / 2^m). For 25.125, E = 131 and M = 1001001 and 16 zeros.",
)
def _(decode: Answer, rng: Rng) -> None:
    for code in [0x41C90000, *FP32.encode(rng.uniform(0.01, 1e4, 8)).tolist()]:
        _decodes(decode, FP32, code, **_explained(FP32, code))


@check_decode.point(
    "any widths: the bias follows from the number of exponent bits",
    hint="The bias is 2^(e-1) - 1: 127 for 8 exponent bits, 15 for 5, 1 for 2. Take the masks from the widths too.",
)
def _(decode: Answer, rng: Rng) -> None:
    for fmt in _widths(rng):
        for code in rng.integers(1 << fmt.mantissa_bits, fmt.max_code + 1, 4).tolist():
            _decodes(decode, fmt, code, **_explained(fmt, code))


@check_decode.point(
    "the sign bit: negative numbers, and a zero that keeps its sign",
    hint="The first bit is the sign. -0.0 is a number of its own: -value keeps it, 0 - value does not.",
)
def _(decode: Answer, rng: Rng) -> None:
    for fmt in _widths(rng):
        sign = 1 << (fmt.bits - 1)
        for code in [*rng.integers(1, fmt.max_code + 1, 3).tolist(), 0]:
            _decodes(decode, fmt, sign + code, **({"no_sign": float(fmt.decode(code))} if code else {}))


@check_decode.point(
    "subnormal numbers: no hidden bit, and the exponent of the smallest normal number",
    hint="With the exponent field 0 the value is 2^(1 - bias) * (M / 2^m). The smallest positive FP32 is 2^-149.",
)
def _(decode: Answer, rng: Rng) -> None:
    for fmt in _widths(rng):
        largest = (1 << fmt.mantissa_bits) - 1
        for code in [1, largest, int(rng.integers(1, largest + 1))]:
            value = float(fmt.decode(code))
            _decodes(
                decode, fmt, code, hidden_in_subnormal=fmt.smallest_normal + value, exponent_of_subnormal=value / 2,
                bias_off=(fmt.smallest_normal + value) / 2,
            )  # fmt: skip


@check_decode.point(
    "infinity: all exponent bits one and no mantissa bit, just above the largest number",
    hint="The largest exponent field is no exponent: with M = 0 it is infinity (np.inf), which has a sign too.",
)
def _(decode: Answer, rng: Rng) -> None:
    for fmt in _widths(rng):
        sign = int(rng.integers(2)) << (fmt.bits - 1)
        for code in (fmt.max_code, fmt.max_code + 1, (1 << (fmt.bits - 1)) + fmt.max_code + 1, sign + fmt.max_code):
            _decodes(decode, fmt, code)


@check_decode.point(
    "NaN: all exponent bits one and any mantissa bit, above infinity",
    hint="With the largest exponent field, M = 0 is infinity and every other M is np.nan, whatever the sign.",
)
def _(decode: Answer, rng: Rng) -> None:
    for fmt in _widths(rng):
        first, last = fmt.max_code + 2, (1 << (fmt.bits - 1)) - 1
        sign = 1 << (fmt.bits - 1)
        for code in (first, last, sign + last, int(rng.integers(first, last + 1)), first - 1):
            _decodes(decode, fmt, code)

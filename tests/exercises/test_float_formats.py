"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import time

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import float_formats


def loops_over_rows(x, mantissa_bits):
    fraction, exponent = np.frexp(x)
    for i in range(len(x)):
        fraction[i] = np.rint(fraction[i] * 2 ** (mantissa_bits + 1)) / 2 ** (mantissa_bits + 1)
    return np.ldexp(fraction, exponent)


def by_logarithm(x, mantissa_bits):
    step = 2.0 ** (np.floor(np.log2(np.abs(x))) - mantissa_bits)
    return np.rint(x / step) * step


def more_bits(extra):
    def answer(x, mantissa_bits):
        fraction, exponent = np.frexp(x)
        bits = mantissa_bits + 1 + extra
        return np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)

    return answer


def in_place(x, mantissa_bits):
    fraction, exponent = np.frexp(x)
    x[...] = np.ldexp(np.rint(np.ldexp(fraction, mantissa_bits + 1)), exponent - mantissa_bits - 1)
    return x


def no_carry(x, mantissa_bits):
    fraction, exponent = np.frexp(x)
    steps = np.rint(np.ldexp(fraction, mantissa_bits + 1))
    steps = np.where(
        np.isfinite(steps), np.clip(steps, -(2.0 ** (mantissa_bits + 1)) + 1, 2.0 ** (mantissa_bits + 1) - 1), steps
    )
    return np.ldexp(steps, exponent - mantissa_bits - 1)


def never_ends(x, spacing, rng):
    out = np.floor(x / spacing) * spacing
    while (out != x).any():
        time.sleep(0.001)
    return out


def library_sum(values):
    return values.sum(dtype=np.float32)


def kahan(values):
    total = lost = np.float32(0)
    for value in values:
        value = value - lost
        new = total + value
        lost = (new - total) - value
        total = new
    return total


def pairs_without_the_odd_one(values):
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half : 2 * half]
    return values[0] if len(values) else np.float32(0)


def exact_in_python(values):
    import math

    return math.fsum(values.tolist())


def sorted_first(values):
    values.sort()
    return np.add.accumulate(values, dtype=np.float32)[-1] if len(values) else np.float32(0)


FINITE = "2.0 ** (exponent - bias) * (1 + mantissa / 2**mantissa_bits)"
SUBNORMAL = "2.0 ** (1 - bias) * (mantissa / 2**mantissa_bits)"
ROUND = "np.rint(steps)"
UP = "rng.random(x.shape) < steps - below"

WRONG = {
    "decode": [
        wrong("bias never subtracted", edit("(exponent - bias)", "exponent"), says="it is not subtracted here"),
        wrong("bias subtracted twice", edit("(exponent - bias)", "(exponent - 2 * bias)"),
              says="subtracted twice here"),
        wrong("bias added", edit("(exponent - bias)", "(exponent + bias)"), says="It is added here"),
        wrong("two hidden bits", edit("(1 + mantissa", "(2 + mantissa"), says="The hidden bit is counted twice here"),
        wrong("no hidden bit", edit("* (1 + mantissa", "* (mantissa"), says="The hidden bit is missing here"),
        wrong("bias 2^(e-1)", edit("(exponent_bits - 1) - 1", "(exponent_bits - 1)"), says="The bias is off by one"),
        wrong("bias always 127", edit("2 ** (exponent_bits - 1) - 1", "127"), says="15 for 5, 1 for 2", at_most=2),
        wrong(
            "fields of FP32 always",
            edit("(code >> mantissa_bits) & (2**exponent_bits - 1)", "(code >> 23) & 0xFF"),
            says="Take the masks from the widths too",
            at_most=3,
        ),
        wrong(
            "fraction without its last bits",
            edit("mantissa = code & (2**mantissa_bits - 1)", "mantissa = (code & (2**mantissa_bits - 1)) >> 3"),
            says="For 25.125, E = 131 and M = 1001001",
        ),
        wrong("hidden bit in subnormals", edit(SUBNORMAL, "2.0 ** (1 - bias) * (1 + mantissa / 2**mantissa_bits)"),
              says="(exponent field 0) has no hidden bit", at_most=5),
        wrong("subnormals one power too low", edit("2.0 ** (1 - bias)", "2.0 ** -bias"),
              says="not 0 - bias", at_most=5),
        wrong("flushes subnormals", edit(SUBNORMAL, "0.0"), says="The smallest positive FP32 is 2^-149", at_most=5),
        wrong("sign lost", edit("-value if sign else value", "value"), says="The sign is lost here"),
        wrong("sign of zero lost", edit("-value if sign else value", "0.0 - value if sign else value"),
              says="-0.0 is a number of its own", at_most=5),
        wrong("no infinity", edit("if exponent == 2**exponent_bits - 1:", "if False:"),
              says="The largest exponent field is no exponent", at_most=4),
        wrong("NaN read as infinity", edit("np.inf if mantissa == 0 else np.nan", "np.inf"),
              says="M = 0 is infinity and every other M is np.nan", at_most=5),
        wrong("text instead of a number", edit("-value if sign else value", "str(value)"), says="got       str"),
        wrong("no return", edit("return -value if sign else value", "value = -value"), says="end with `return`"),
        wrong("other parameters", lambda bits: 0.0, says="expected  decode(code, exponent_bits, mantissa_bits)"),
        wrong("the result, not the function", 25.125, says="Give the check the function itself"),
        wrong("raises", edit("bias = 2", "bias = 1 // 0 + 2"), says="ZeroDivisionError", at_most=0),
    ],
    "round_to_nearest_even": [
        wrong("truncation", edit(ROUND, "np.trunc(steps)"), says="cut off here"),
        wrong("down", edit(ROUND, "np.floor(steps)"), says="This rounds down, away from zero"),
        wrong("ties up", edit(ROUND, "np.floor(steps + 0.5)"), says="Halves go up here"),
        wrong("ties away from zero", edit(ROUND, "np.copysign(np.floor(np.abs(steps) + 0.5), steps)"),
              says="Halves go away from zero here"),
        wrong("decimal digits", lambda x, mantissa_bits: np.round(x, mantissa_bits),
              says="np.round counts decimal digits"),
        wrong("one bit too few", more_bits(-1),
              says="One bit is missing"),
        wrong("one bit too many", more_bits(1),
              says="one bit too many"),
        wrong("no carry", no_carry, says="Do not limit the significand", at_most=5),
        wrong("logarithm of zero", by_logarithm, says="(log2(0) is -inf)", at_most=5),
        wrong("through float32", edit("np.frexp(x)", "np.frexp(x.astype(np.float32))"), says="expected  dtype float64"),
        wrong("in place", in_place, says="must leave its arguments as they were", at_most=0),
        wrong("loops over rows", loops_over_rows, says="no loop over len(x)", at_most=5),
        wrong("absolute values", edit("np.frexp(x)", "np.frexp(np.abs(x))"),
              says="the result for -x is minus the result for x", at_most=3),
    ],
    "stochastic_round": [
        wrong("nearest", edit(f"up = {UP}", "up = steps - below >= 0.5"),
              says="It always goes the same way here", at_most=1),
        wrong("always up", edit(UP, "steps > below"), says="expected  some up, some down", at_most=0),
        wrong("a fair coin", edit(UP, "(rng.random(x.shape) < 0.5) & (steps > below)"), says="A fair coin ignores"),
        wrong("probabilities exchanged", edit("rng.random(x.shape) <", "rng.random(x.shape) >="),
              says="the wrong way round"),
        wrong("one random number for all", edit("rng.random(x.shape)", "rng.random()"),
              says="each goes up or down on its own"),
        wrong("one random number a row", edit("rng.random(x.shape)", "rng.random(x.shape[:-1] + (1,))"),
              says="the index of axis"),
        wrong("towards zero for negatives", edit("np.floor(steps)", "np.trunc(steps)"),
              says="np.trunc goes towards zero, which is up for negative numbers"),
        wrong("moves what lies on the grid", edit(UP, "rng.random(x.shape) < np.maximum(steps - below, 0.03)"),
              says="x is on the grid already and must stay"),
        wrong("not on the grid", edit("(below + up) * spacing", "x + (up - 0.5) * spacing"),
              says="expected  whole multiples of spacing"),
        wrong("counted in steps", edit("(below + up) * spacing", "below + up"), says="This counts steps"),
        wrong("random numbers from elsewhere", edit("rng.random(x.shape)", "np.random.random(x.shape)"),
              says="the same result from two generators of the same seed", at_most=4),
        wrong("a generator made inside", edit("rng.random(x.shape)", "np.random.default_rng(0).random(x.shape)"),
              says="The second call with the same rng repeated the first", at_most=4),
        wrong("never ends", never_ends, says="Is there a loop that never ends?", at_most=0),
    ],
    "neumaier_sum": [
        wrong("without compensation", edit("return total + lost", "return total"), says="sum without compensation"),
        wrong("the library's sum", library_sum, says="2^24 + 1 is 2^24 in float32"),
        wrong("Kahan's", kahan, says="When |value| > |total|, total loses digits", at_most=3),
        wrong("wrong sign", edit("total + lost", "total - lost"), says="The compensation has the wrong sign"),
        wrong("in float64", edit("np.float32(0)", "np.float64(0)"), says="Keep every step in float32"),
        wrong("in float64, rounded at the end",
              lambda values: np.float32(np.cumsum(values, dtype=np.float64)[-1] if len(values) else 0),
              says="The sum in float64 gives this", at_most=3),
        wrong("compares with the sign", edit("abs(total) >= abs(value)", "total >= value"),
              says="Compare absolute values"),
        wrong("branches exchanged", edit("abs(total) >= abs(value)", "abs(total) < abs(value)"), says="off by"),
        wrong("sorts its argument", sorted_first, says="work on a new array, not in place"),
        wrong("pairs, the odd one lost", pairs_without_the_odd_one, says="the sum of nothing is 0"),
        wrong("math.fsum", exact_in_python, says="expected  one float32 number"),
        wrong("compensates in the loop", edit("total = new\n", "total = new + lost\n"),
              says="Go through the values once"),
    ],
}  # fmt: skip

test_exercise = exercise_tests(float_formats, WRONG)

"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import math

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import mixed_precision


def doubles_only(gradients, largest):
    scale = 1.0
    while np.abs(gradients).max() * scale * 2 <= largest:
        scale *= 2
    return scale


def signed(gradients, largest):
    return 2.0 ** math.floor(math.log2(largest / abs(float(gradients.max()))))


def each_tensor(gradients, scale, max_norm):
    true = [g.astype(np.float32) / np.float32(scale) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in true))
    return [g * np.float32(min(1.0, max_norm / float(np.linalg.norm(g)))) for g in true], norm


def clip_first(gradients, scale, max_norm):
    raw = [g.astype(np.float32) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in raw))
    factor = np.float32(min(1.0, max_norm / norm))
    return [g * factor / np.float32(scale) for g in raw], norm / scale


def never_unscales(gradients, scale, max_norm):
    raw = [g.astype(np.float32) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in raw))
    factor = np.float32(min(1.0, max_norm / norm))
    return [g * factor for g in raw], norm


def squares_in_fp16(gradients, scale, max_norm):
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(float((g**2).sum(dtype=np.float32)) for g in gradients)) / scale
    factor = np.float32(min(1.0, max_norm / norm))
    return [g.astype(np.float32) / np.float32(scale) * factor for g in gradients], norm


def in_place(gradients, scale, max_norm):
    for g in gradients:
        g /= g.dtype.type(scale) if scale < 60000 else g.dtype.type(2)
    return gradients, 1.0


WRONG = {
    "largest_safe_scale": [
        wrong("no power of two", edit("2.0 ** math.floor(math.log2(bound))", "bound"), says="That scale is no power"),
        wrong("exponent rounded up", edit("math.floor", "math.ceil"), says="one power of two too high"),
        wrong("one lower, to be safe", edit("math.log2(bound)", "math.log2(bound / 2)"),
              says="one power of two too low"),
        wrong("signed maximum", signed, says="Negative gradients overflow too", at_most=4),
        wrong("the mean fits", edit("np.abs(gradients).max()", "np.abs(gradients).mean()"), says="makes the mean fit"),
        wrong("FP16 always", edit("largest / float", "65504.0 / float"), says="448 in FP8 E4M3", at_most=3),
        wrong("never below 1", doubles_only, says="a loop that only doubles does not", at_most=4),
        wrong("loops over rows", lambda gradients, largest: doubles_only(np.array([max(map(abs, gradients))]), largest),
              says="No loop over rows is needed", at_most=3),
        wrong("an exponent", edit("2.0 ** math.floor(math.log2(bound))", "math.floor(math.log2(bound))"),
              says="the answer is the largest power of two that does not pass it"),
    ],
    "unscale_and_clip": [
        wrong("clip before unscale", clip_first, says="Clipped before it was unscaled"),
        wrong("never unscaled", never_unscales, says="Was it divided by the scale first?"),
        wrong("each tensor by itself", each_tensor, says="Each tensor was clipped by itself"),
        wrong("never clipped", edit("min(1.0, max_norm / norm)", "1.0"), says="Nothing was clipped here"),
        wrong("always brought to max_norm", edit("min(1.0, max_norm / norm)", "max_norm / norm"),
              says="A norm below max_norm must stay as it is", at_most=2),
        wrong("divides in FP16", edit("g.astype(np.float32) / np.float32(scale)", "(g / g.dtype.type(scale))"),
              says="1e-3 / 65536 is 0: cast to float32 first"),
        wrong("squares in FP16", squares_in_fp16, says="300**2 is inf in float16", at_most=3),
        wrong("multiplies by the scale", edit("/ np.float32(scale)", "* np.float32(scale)"), says="gradients of norm"),
        wrong("norm after clipping", edit("for g in true], norm", "for g in true], norm * float(factor)"),
              says="Return the true norm"),
        wrong("norm of the scaled gradients", edit("for g in true], norm", "for g in true], norm * scale"),
              says="the norm of the scaled gradients"),
        wrong("only the gradients", edit("for g in true], norm", "for g in true]"),
              says="Return both, in this order"),
        wrong("in place", in_place, says="must leave its arguments as they were", at_most=0),
    ],
    "scale_trace": [
        wrong("the scale after the step", edit("        trace.append(scale)\n        good = good + 1 if ok else 0\n"
              "        if not ok:\n            scale *= 0.5\n        elif good == growth_interval:\n"
              "            scale, good = scale * 2, 0\n",
              "        good = good + 1 if ok else 0\n        if not ok:\n            scale *= 0.5\n"
              "        elif good == growth_interval:\n            scale, good = scale * 2, 0\n"
              "        trace.append(scale)\n"), says="That is the scale after each step"),
        wrong("good steps in all", edit("good + 1 if ok else 0", "good + int(ok)"), says="set the count of good steps",
              at_most=3),
        wrong("count not reset after growth", edit("scale, good = scale * 2, 0", "scale = scale * 2"),
              says="count from 0 again", at_most=3),
        wrong("one step late", edit("good == growth_interval", "good > growth_interval"),
              says="one good step too late", at_most=3),
        wrong("never comes down", edit("scale *= 0.5", "pass"), says="It never comes down"),
        wrong("never grows", edit("scale * 2, 0", "scale, 0"), says="It never grows", at_most=3),
        wrong("not below 1", edit("scale *= 0.5", "scale = max(1.0, scale * 0.5)"), says="No bound at either end",
              at_most=4),
        wrong("float32", edit("dtype=np.float64", "dtype=np.float32"), says="expected  dtype float64"),
        wrong("the last scale only", edit("return np.array(trace, dtype=np.float64)", "return scale"),
              says="a NumPy array of shape"),
    ],
}  # fmt: skip

test_exercise = exercise_tests(mixed_precision, WRONG)

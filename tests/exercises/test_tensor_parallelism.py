"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import tensor_parallelism


def replicated(A, b, B, c, ranks):
    return [(A, b, B, c)] * ranks


def strided_columns(A, b, B, c, ranks):
    if A.shape[1] % ranks:
        raise ValueError(f"{A.shape[1]} over {ranks}")
    rows, biases = np.split(B, ranks), np.split(b, ranks)
    return [(A[:, r::ranks], biases[r], rows[r], c / ranks) for r in range(ranks)]


def even_slices(qkv, heads, ranks):
    if heads % ranks:
        raise ValueError("no")
    return np.split(qkv, ranks, axis=1)


def head_by_head(qkv, heads, ranks):
    if heads % ranks:
        raise ValueError("no")
    by_head = qkv.reshape(len(qkv), 3, heads, -1).transpose(0, 2, 1, 3).reshape(len(qkv), -1)
    return np.split(by_head, ranks, axis=1)


def heads_in_turn(qkv, heads, ranks):
    if heads % ranks:
        raise ValueError("no")
    by_head = qkv.reshape(len(qkv), 3, heads, -1)
    return [by_head[:, :, rank::ranks].reshape(len(qkv), -1) for rank in range(ranks)]


def in_place(largest, exponentials, own):
    exponentials *= np.exp(largest - largest.max(axis=0))
    return largest.max(axis=0) + np.log(exponentials.sum(axis=0)) - own.sum(axis=0)


WRONG = {
    "cut_mlp": [
        wrong("replicated", replicated, says="A_r is the whole array: nothing was shared out", at_most=0),
        wrong("A by rows", edit("np.split(A, ranks, axis=1)", "np.array_split(A, ranks, axis=0)"),
              says="A is cut by columns"),
        wrong("B by columns", edit("np.split(B, ranks, axis=0)", "np.array_split(B, ranks, axis=1)"),
              says="B is cut by rows"),
        wrong("c on every rank", edit("[np.zeros_like(c)] * (ranks - 1)", "[c] * (ranks - 1)"),
              says="The output bias c counts 5 times", at_most=3),
        wrong("c nowhere", edit("[c] + ", "[0 * c] + "), says="The output bias c is missing from the sum", at_most=3),
        wrong("c cut", edit("[c] + [np.zeros_like(c)] * (ranks - 1)", "np.array_split(c, ranks)"),
              says="c belongs to the outputs"),
        wrong("b whole", edit("np.split(b, ranks)", "[b] * ranks"), says="b_r is the whole array"),
        wrong("b divided", edit("np.split(b, ranks)", "np.split(b / ranks, ranks)"), says="needs its whole bias"),
        wrong("rows of another rank", edit("np.split(B, ranks, axis=0)", "np.split(B, ranks, axis=0)[::-1]"),
              says="hidden unit j needs column j of A", at_most=1),
        wrong("columns in turn", strided_columns, says="All is there, but does not belong together"),
        wrong("the same columns", edit("columns, biases = np.split(A, ranks, axis=1),",
              "columns, biases = [np.split(A, ranks, axis=1)[0]] * ranks,"),
              says="some columns are missing, or there twice"),
        wrong("not refused", edit("if hidden % ranks:\n        raise ValueError(f\"{hidden} hidden units cannot be "
              "shared equally by {ranks} ranks\")", "hidden -= hidden % ranks\n    A, b, B = A[:, :hidden], "
              "b[:hidden], B[:hidden]"), says="expected  ValueError", at_most=4),
        wrong("refused without a reason", edit('f"{hidden} hidden units cannot be shared equally by {ranks} ranks"',
              '"no"'), says="Name both numbers", at_most=4),
        wrong("three arrays", edit("zip(columns, biases, rows, last, strict=True)",
              "zip(columns, rows, last, strict=True)"), says="One tuple of four arrays for each rank"),
    ],
    "cut_qkv": [
        wrong("replicated", lambda qkv, heads, ranks: [qkv] * ranks, says="nothing was shared out", at_most=0),
        wrong("even slices", even_slices, says="the first rank has queries and no values", at_most=0),
        wrong("head by head", head_by_head, says="sorted head by head"),
        wrong("heads in turn", heads_in_turn, says="Give each rank neighbouring heads"),
        wrong("ranks reversed", edit("for rank in range(ranks)", "for rank in reversed(range(ranks))"),
              says="The ranks are in reverse order"),
        wrong("keys first", edit("for kind in kinds]", "for kind in (kinds[1], kinds[0], kinds[2])]"),
              says="Queries and keys have changed places"),
        wrong("rows", edit("np.split(kind, ranks, axis=1)", "np.array_split(kind, ranks, axis=0)"),
              says="cut columns, not rows"),
        wrong("a part only", edit("for rank in range(ranks)]", "for rank in range(1)]"),
              says="One array for each rank", at_most=0),
        wrong("width for heads", edit("if heads % ranks:", "if len(qkv) % ranks:"),
              says="Look at heads % ranks, not at the width", at_most=3),
    ],
    "merge_losses": [
        wrong("sums as they are", edit("(exponentials * np.exp(largest - top))", "exponentials"),
              says="The ranks' sums were added as they are"),
        wrong("raw exponentials", edit("np.exp(largest - top)", "np.exp(largest) / np.exp(top)"),
              says="Only differences to the common maximum may go into exp", at_most=3),
        wrong("maximum not added again", edit("top + np.log", "np.log"), says="never added again"),
        wrong("no target", edit(" - own.sum(axis=0)", ""), says="The target's logit is missing"),
        wrong("factor upside down", edit("largest - top", "top - largest"), says="The factor is upside down"),
        wrong("one rank only", edit("return top + np.log(together) - own.sum(axis=0)",
              "return largest[0] + np.log(exponentials[0]) - own[0]"), says="the first rank's columns alone",
              at_most=1),
        wrong("target relative", edit("- own.sum(axis=0)", "- (own.sum(axis=0) - top)"),
              says="is measured from the maximum"),
        wrong("the mean", edit("return top + np.log(together) - own.sum(axis=0)",
              "return (top + np.log(together) - own.sum(axis=0)).mean()"), says="expected  shape ("),
        wrong("in place", in_place, says="must leave its arguments as they were", at_most=0),
        wrong("common scale of the first rank", edit("largest.max(axis=0)", "largest[-1]"),
              says="-inf minus -inf is not a number", at_most=3),
    ],
}  # fmt: skip

test_exercise = exercise_tests(tensor_parallelism, WRONG)

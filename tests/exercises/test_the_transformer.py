"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import math

import torch
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import the_transformer


def exp_by_hand(q, k, v):
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).exp().tril()
    return weights / weights.sum(-1, keepdim=True) @ v


def interleaved(x, theta):
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] * theta ** -(torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2).to(x.dtype)


MASK = "scores = scores.masked_fill(later, -math.inf)"
SOFTMAX = "\n    weights = scores.softmax(dim=-1)"

WRONG = {
    "causal_attention": [
        wrong("no scale", edit(" / math.sqrt(q.shape[-1])", ""), says="not divided by sqrt(d)"),
        wrong("divided by d", edit("math.sqrt(q.shape[-1])", "q.shape[-1]"), says="divided by d here"),
        wrong("no mask", edit(MASK, "pass"), says="each sees those that follow it", at_most=0),
        wrong("mask after the softmax",
              edit(MASK + SOFTMAX, "weights = scores.softmax(dim=-1) * ~later"), says="sums to less than one"),
        wrong("scores times zero", edit(MASK, "scores = scores * ~later"), says="exp(0) is 1"),
        wrong("mask upside down", edit("triu(diagonal=1)", "tril(diagonal=-1)"), says="The mask is upside down"),
        wrong("not itself", edit("diagonal=1", "diagonal=0"), says="A token sees itself too"),
        wrong("one too many", edit("diagonal=1", "diagonal=2"), says="one that follows it"),
        wrong("minus ten thousand", edit(MASK, "scores = scores - 1e4 * later"), says="is no -inf", at_most=4),
        wrong("heads in turn", edit("k = k.repeat_interleave(groups, dim=1)", "k = k.repeat(1, groups, 1, 1)"),
              says="one after another", at_most=4),
        wrong("softmax over queries", edit("softmax(dim=-1)", "softmax(dim=-2)"), says="must sum to one: dim=-1"),
        wrong("exp by hand", exp_by_hand, says="exp(200) is inf in float32", at_most=4),
        wrong("weights returned", edit("return weights @ v", "return weights"), says="expected  shape"),
    ],
    "turn": [
        wrong("neighbours", interleaved, says="Number i goes with number i + d/2", at_most=3),
        wrong("from one", edit("torch.arange(x.shape[2])[:, None]", "torch.arange(1, x.shape[2] + 1)[:, None]"),
              says="count from 0"),
        wrong("the other way", edit("first * cos - second * sin, second * cos + first * sin",
                                    "first * cos + second * sin, second * cos - first * sin"),
              says="turn the other way", at_most=1),
        wrong("half the exponent", edit("torch.arange(half) / half", "torch.arange(half) / (2 * half)"),
              says="fall half as fast", at_most=2),
        wrong("one speed", edit("theta ** -(torch.arange(half) / half)", "torch.ones(half)"),
              says="at the same speed", at_most=2),
        wrong("theta of the paper", edit("theta ** -", "10_000.0 ** -"), says="theta", at_most=4),
        wrong("both signs", edit("second * cos + first * sin", "second * cos - first * sin"), says="(a cos - b sin"),
        wrong("float32 always", edit("dim=-1)", "dim=-1).float()"), says="torch.bfloat16", at_most=4),
        wrong("nothing turned", edit("return torch.cat(", "return x\n    torch.cat("), says="expected  element",
              at_most=1),
    ],
    "count_decoder": [
        wrong("all heads have keys", edit("2 * width * kv_heads", "2 * width * heads"), says="as of queries"),
        wrong("queries of the width", edit("2 * width * heads * head_width +", "2 * width * width +"),
              says="not width", at_most=4),
        wrong("no gate", edit("3 * width", "2 * width"), says="three matrices, not two"),
        wrong("no output projection", edit("2 * width * heads", "width * heads"), says="output projection"),
        wrong("no norms in the layers", edit(" + 2 * norm)", ")"), says="two of D numbers each"),
        wrong("LayerNorms", edit("norm = width", "norm = 2 * width"), says="it has no bias"),
        wrong("no last norm", edit(" + norm + head", " + head"), says="behind the layers"),
        wrong("always tied", edit("0 if tied else table", "0"), says="a table of its own", at_most=3),
        wrong("never tied", edit("0 if tied else table", "table"), says="counted once", at_most=4),
        wrong("thirty-two layers", edit("depth * (", "32 * ("), says="counts depth times", at_most=3),
    ],
}  # fmt: skip

test_exercise = exercise_tests(the_transformer, WRONG)

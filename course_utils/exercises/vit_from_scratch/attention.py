"""13.2: attention with a mask, written out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.models import attention_weights

Rng = np.random.Generator

check_masked_attention = Check("vit_from_scratch.2", "masked_attention", parameters=("q", "k", "v", "keep"))
TOLERANCE = 1e-5


def _tensors(rng: Rng, batch: int, heads: int, queries: int, tokens: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    def normal(rows: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=(batch, heads, rows, width)).astype(np.float32))

    return normal(queries), normal(tokens), normal(tokens)


def _mistakes(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """What known mistakes make of the arguments: the sentence that explains each -> its result."""
    bias = torch.zeros(keep.shape).masked_fill(~keep, -torch.inf)[:, None, None, :]  # [B, 1, 1, N]
    scores, root = q @ k.transpose(-2, -1), math.sqrt(q.shape[-1])
    mistakes = {
        "The scores are not divided by sqrt(d) here.": (scores + bias).softmax(-1) @ v,
        "The scores are divided by d here, not by its square root.": (scores / root**2 + bias).softmax(-1) @ v,
        "The softmax runs over the queries here. The weights of *one query* must sum to one: dim=-1.":
            (scores / root).softmax(-2) @ v,
    }  # fmt: skip
    if not keep.all():
        weights = (scores / root).softmax(-1)
        mistakes |= {
            "The mask is not used here.": weights @ v,
            "Weights are set to zero after the softmax here, so the rest sums to less than one: mask the scores.":
                (weights * keep[:, None, None, :]) @ v,
            "A score of 0 is no mask: exp(0) is 1. Masked scores must be -inf.":
                (scores / root * keep[:, None, None, :]).softmax(-1) @ v,
            "The mask is upside down here: True marks a token that is kept.":
                (scores / root).masked_fill(keep[:, None, None, :], -torch.inf).softmax(-1) @ v,
        }  # fmt: skip
    return mistakes


def _attends(answer: Answer, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    given = f"{answer.name} with q {tuple(q.shape)}, k and v {tuple(k.shape)}, {int((~keep).sum())} tokens masked"
    want = attention_weights(q, k, keep) @ v
    mistakes = _mistakes(q, k, v, keep)
    got: Tensor = answer.expect(want, q, k, v, keep, given=given, suspects=mistakes, rtol=TOLERANCE, atol=TOLERANCE)
    return got


def _everything(k: Tensor) -> Tensor:
    return torch.ones(k.shape[0], k.shape[2], dtype=torch.bool)


@check_masked_attention.point(
    "one head: the mean of the values, weighted by softmax(q k^T / sqrt(d))",
    hint="q @ k.transpose(-2, -1) gives [B, h, M, N] scores; d is the last dimension of q.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v = _tensors(rng, 1, 1, 5, 5, int(rng.integers(6, 20)))
    _attends(answer, q, k, v, _everything(k))


@check_masked_attention.point(
    "batches, heads, and another number of queries than of tokens",
    hint="Take all sizes from the tensors; M queries and N tokens need not be equal. Heads do not mix.",
)
def _(answer: Answer, rng: Rng) -> None:
    for queries, tokens in ((1, 7), (9, 4)):
        q, k, v = _tensors(rng, 3, int(rng.integers(2, 5)), queries, tokens, 8)
        _attends(answer, q, k, v, _everything(k))


@check_masked_attention.point(
    "masked tokens get no weight, and the weights of the others still sum to one",
    hint="Set the masked scores to -inf *before* the softmax: scores.masked_fill(~keep[:, None, None, :], -inf).",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v = _tensors(rng, 3, 2, 4, 9, 8)
    keep = torch.from_numpy(rng.random((3, 9)) < 0.5)
    keep[:, 0], keep[:, 1] = True, False
    _attends(answer, q, k, v, keep)


@check_masked_attention.point(
    "what stands in a masked token changes nothing, however large",
    hint="A large negative number is no -inf: beside scores of a million it is a small one.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v = _tensors(rng, 2, 2, 3, 6, 8)
    keep = torch.ones(2, 6, dtype=torch.bool)
    keep[0, 2:4], keep[1, 5] = False, False
    before = _attends(answer, q, k, v, keep)
    wild = k.masked_fill(~keep[:, None, :, None], 1e7)
    after = answer(q, wild, v, keep)
    difference = (after - before).abs().max().item()
    if not difference <= TOLERANCE:
        said = ("given", f"{answer.name}, then again with keys of 1e7 in the masked tokens")
        raise NotOk(said, ("expected", "the same result"), ("got", f"a result that differs by {difference:.2g}"))


@check_masked_attention.point(
    "large scores: no overflow",
    hint="exp(200) is inf in float32. torch.softmax takes the largest score away first; so must you.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v = _tensors(rng, 2, 2, 4, 5, 16)
    _attends(answer, 40 * q, 40 * k, v, _everything(k))

"""Causal attention with fewer heads of keys and values than of queries, written out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_causal_attention = Check("the_transformer.1", "causal_attention", parameters=("q", "k", "v"))
TOLERANCE = 1e-5


def _tensors(rng: Rng, batch: int, heads: int, kv_heads: int, tokens: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    def normal(count: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=(batch, count, tokens, width)).astype(np.float32))

    return normal(heads), normal(kv_heads), normal(kv_heads)


def _reference(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, diagonal: int = 1) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ v


def _mistakes(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """What known mistakes make of the arguments: the sentence that explains each -> its result."""
    groups, root = q.shape[1] // k.shape[1], math.sqrt(q.shape[-1])
    every = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
    keys, values = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    scores = q @ keys.transpose(-2, -1) / root
    weights = scores.softmax(dim=-1)
    in_turn = [t.repeat(1, groups, 1, 1) for t in (k, v)]
    mistakes = {
        "The scores are not divided by sqrt(d) here.": _reference(q, k, v, scale=1.0),
        "The scores are divided by d here, not by its square root.": _reference(q, k, v, scale=1 / root**2),
        "A token sees itself too: here the diagonal is masked.": _reference(q, k, v, diagonal=0),
        "Each token sees one that follows it here: the mask begins beside the diagonal, diagonal=1.":
            _reference(q, k, v, diagonal=2),
        "No token is masked here: each sees those that follow it.": weights @ values,
        "Weights are set to zero after the softmax here, so the rest sums to less than one: mask the scores.":
            (weights * every.tril()) @ values,
        "A score of 0 is no mask: exp(0) is 1. Masked scores must be -inf.":
            (scores * every.tril()).softmax(dim=-1) @ values,
        "The mask is upside down here: each token sees those that follow it.":
            scores.masked_fill(every.tril(-1), -torch.inf).softmax(dim=-1) @ values,
        "Query head j reads the keys of head j % k here. Neighbours share: head j reads head j // (h / k).":
            _reference(q, *in_turn),
        "The softmax runs over the queries here. The weights of *one query* must sum to one: dim=-1.":
            scores.masked_fill(~every.tril(), -torch.inf).softmax(dim=-2) @ values,
    }  # fmt: skip
    want = _reference(q, k, v)
    return {sentence: value for sentence, value in mistakes.items() if not torch.allclose(value, want, atol=1e-4)}


def _attends(answer: Answer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    given = f"{answer.name} with q {tuple(q.shape)}, k and v {tuple(k.shape)}"
    want, suspects = _reference(q, k, v), _mistakes(q, k, v)
    got: Tensor = answer.expect(want, q, k, v, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)
    return got


@check_causal_attention.point(
    "one head: each token takes the mean of the values up to its own, weighted by softmax(q k^T / sqrt(d))",
    hint="q @ k.transpose(-2, -1) gives [B, h, N, N] scores; above the diagonal stand the tokens that follow.",
)
def _(answer: Answer, rng: Rng) -> None:
    _attends(answer, *_tensors(rng, 1, 1, 1, int(rng.integers(4, 8)), int(rng.integers(6, 20))))


@check_causal_attention.point(
    "batches and heads do not mix",
    hint="Take all sizes from the tensors, and leave the first two dimensions alone.",
)
def _(answer: Answer, rng: Rng) -> None:
    heads = int(rng.integers(2, 5))
    _attends(answer, *_tensors(rng, 3, heads, heads, 6, 8))


@check_causal_attention.point(
    "neighbouring query heads share a head of keys and values",
    hint="k.repeat_interleave(h // k, dim=1) gives each head of keys h/k times, one after another.",
)
def _(answer: Answer, rng: Rng) -> None:
    for heads, kv_heads in ((6, 2), (4, 1), (6, 3)):
        _attends(answer, *_tensors(rng, 2, heads, kv_heads, 5, 8))


@check_causal_attention.point(
    "what follows a token changes nothing for it, however large",
    hint="A large negative number is no -inf: beside scores of a million it is a small one.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v = _tensors(rng, 2, 4, 2, 7, 8)
    at = int(rng.integers(2, 6))
    before = _attends(answer, q, k, v)
    wild = torch.cat([k[:, :, :at], k[:, :, at:] * 1e7], dim=2)
    difference = (answer(q, wild, v) - before)[:, :, :at].abs().max().item()
    if not difference <= TOLERANCE:
        said = ("given", f"{answer.name}, then again with keys of 1e7 from place {at} on")
        raise NotOk(
            said, ("expected", f"the same at the places before {at}"), ("got", f"a difference of {difference:.2g}")
        )


@check_causal_attention.point(
    "one token alone, and large scores: no overflow",
    hint="exp(200) is inf in float32. torch.softmax takes the largest score away first; so must you.",
)
def _(answer: Answer, rng: Rng) -> None:
    _attends(answer, *_tensors(rng, 2, 2, 1, 1, 4))
    q, k, v = _tensors(rng, 2, 2, 2, 5, 16)
    _attends(answer, 40 * q, 40 * k, v)

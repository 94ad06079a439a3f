"""10.2: attention with a prefix of keys and values."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

check_attend_with_prefix = Check(
    "soft_prompts.2", "attend_with_prefix", parameters=("q", "k", "v", "keys", "values", "mask")
)
TOLERANCE = 1e-5


def _arguments(rng: Rng, batch: int, heads: int, queries: int, tokens: int, length: int, width: int) -> Arguments:
    """q [B, h, M, d], k and v [B, h, N, d], keys and values [l, h d], mask [B, N]."""

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    q, k, v = (normal(batch, heads, rows, width) for rows in (queries, tokens, tokens))
    real = torch.from_numpy(rng.integers(1, max(2, tokens), batch))
    return q, k, v, normal(length, heads * width), normal(length, heads * width), torch.arange(tokens) < real[:, None]


def _heads(rows: Tensor, like: Tensor) -> Tensor:
    batch, heads, _, width = like.shape
    return rows.view(len(rows), heads, width).transpose(0, 1).expand(batch, -1, -1, -1)  # [B, h, l, d]


def _attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor, root: float) -> Tensor:
    scores = (q @ k.transpose(-2, -1) / root).masked_fill(~real[:, None, None, :], -math.inf)
    return scores.softmax(-1) @ v


def _right(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    own_k, own_v = (torch.cat([_heads(rows, k), tokens], 2) for rows, tokens in ((keys, k), (values, v)))
    return _attention(q, own_k, own_v, F.pad(mask, (len(keys), 0), value=True), math.sqrt(q.shape[-1]))


def _mistakes(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What known mistakes make of the arguments: the sentence that explains each -> its result."""
    root, length = math.sqrt(q.shape[-1]), len(keys)
    own_k, own_v = (torch.cat([_heads(rows, k), tokens], 2) for rows, tokens in ((keys, k), (values, v)))
    front = F.pad(mask, (length, 0), value=True)
    shuffled = [rows.reshape(k.shape[1], length, k.shape[3]).expand(len(k), -1, -1, -1) for rows in (keys, values)]
    mixed_k, mixed_v = (torch.cat([rows, tokens], 2) for rows, tokens in zip(shuffled, (k, v), strict=True))
    behind = torch.cat([v, _heads(values, v)], 2)
    mistakes = {
        "The prefix is not heard here: it is missing, or masked.": _attention(q, k, v, mask, root),
        "The text is not there any more: the prefix comes before its keys and values, not in their place.":
            _attention(q, _heads(keys, k), _heads(values, v), torch.ones(len(k), length, dtype=torch.bool), root),
        "The numbers of a prefix vector are dealt out to the wrong heads: head i has columns i d to (i + 1) d.":
            _attention(q, mixed_k, mixed_v, front, root),
        "The keys stand in front and the values behind: a weight must meet its own value.":
            _attention(q, own_k, behind, front, root),
        "The keys are used as values here.": _attention(q, own_k, torch.cat([_heads(keys, v), v], 2), front, root),
        "The scores are not divided by sqrt(d) here.": _attention(q, own_k, own_v, front, 1.0),
        "The mask grows at its end here: the text's padding is heard, and its last words are not.":
            _attention(q, own_k, own_v, F.pad(mask, (0, length), value=True), root),
    }  # fmt: skip
    if not mask.all():
        mistakes["The mask is not used here."] = _attention(q, own_k, own_v, front | True, root)
    return mistakes


def _attends(answer: Answer, arguments: Arguments) -> None:
    q, k, _, keys, _, mask = arguments
    given = (
        f"{answer.name} with q {tuple(q.shape)}, k and v {tuple(k.shape)}, keys and values {tuple(keys.shape)}, "
        f"{int((~mask).sum())} tokens masked"
    )
    mistakes = _mistakes(*arguments)
    answer.expect(_right(*arguments), *arguments, given=given, suspects=mistakes, rtol=TOLERANCE, atol=TOLERANCE)


def _all_real(arguments: Arguments) -> Arguments:
    *others, mask = arguments
    return (*others, torch.ones_like(mask))  # type: ignore[return-value]


@check_attend_with_prefix.point(
    "one head, no padding: l more keys and values before those of the text",
    hint="With one head, keys[None, None] is [1, 1, l, d]. Concatenate along the tokens, dimension 2.",
)
def _(answer: Answer, rng: Rng) -> None:
    _attends(answer, _all_real(_arguments(rng, 1, 1, 5, 5, int(rng.integers(2, 6)), int(rng.integers(5, 12)))))


@check_attend_with_prefix.point(
    "several heads: each has its own columns of the prefix",
    hint="[l, h d] -> view [l, h, d] -> transpose [h, l, d] -> expand [B, h, l, d]. A bare reshape mixes them.",
)
def _(answer: Answer, rng: Rng) -> None:
    for heads in (2, int(rng.integers(3, 6))):
        _attends(answer, _all_real(_arguments(rng, 3, heads, 4, 4, 5, 6)))


@check_attend_with_prefix.point(
    "another number of queries than of tokens: nothing asks in the prefix's place",
    hint="The result is [B, h, M, d], as long as q.",
)
def _(answer: Answer, rng: Rng) -> None:
    for queries, tokens in ((1, 7), (9, 3)):
        _attends(answer, _all_real(_arguments(rng, 2, 2, queries, tokens, 4, 6)))


@check_attend_with_prefix.point(
    "padding stays masked, the prefix never is",
    hint="Put l columns of True before the mask: F.pad(mask, (l, 0), value=True).",
)
def _(answer: Answer, rng: Rng) -> None:
    for length in (3, 8):
        _attends(answer, _arguments(rng, 4, 2, 3, 6, length, 6))


@check_attend_with_prefix.point(
    "large scores: no overflow",
    hint="Use softmax, not exp and a division: exp(200) is inf in float32.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k, v, keys, values, mask = _arguments(rng, 2, 2, 3, 5, 4, 8)
    arguments = (40 * q, 40 * k, v, 40 * keys, values, mask)
    if not bool(torch.isfinite(answer(*arguments)).all()):
        raise NotOk(("given", "scores of some thousands"), ("expected", "finite numbers"), ("got", "inf or nan"))
    _attends(answer, arguments)

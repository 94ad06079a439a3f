"""04.3: a loss over a vocabulary in parts, from three numbers a rank and token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator
Array = NDArray[np.float64]

check_merge_losses = Check("tensor_parallelism.3", "merge_losses", parameters=("largest", "exponentials", "own"))


def _right(largest: Array, exponentials: Array, own: Array) -> Array:
    top = largest.max(axis=0)
    return top + np.log((exponentials * np.exp(largest - top)).sum(axis=0)) - own.sum(axis=0)


def _reported(parts: list[Array], targets: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """What each rank knows of its columns ``[N, V/t]``: three arrays ``[t, N]``."""
    largest = np.stack([part.max(axis=1) for part in parts])
    exponentials = np.stack([np.exp(part - part.max(axis=1, keepdims=True)).sum(axis=1) for part in parts])
    own, first = np.zeros_like(largest), 0
    for rank, part in enumerate(parts):
        mine = (targets >= first) & (targets < first + part.shape[1])
        own[rank, mine] = part[mine, targets[mine] - first]
        first += part.shape[1]
    return largest, exponentials, own


def _mistakes(largest: Array, exponentials: Array, own: Array) -> dict[str, Array]:
    """The sentence that explains a mistake -> the losses it gives."""
    top = largest.max(axis=0)
    right = _right(largest, exponentials, own)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = {
            "The ranks' sums were added as they are. Each was taken relative to a maximum of its own: bring them to "
            "one first.": top + np.log(exponentials.sum(axis=0)) - own.sum(axis=0),
            "The common maximum was subtracted and never added again.": right - top,
            "The target's logit is missing.": right + own.sum(axis=0),
            "The target's logit is measured from the maximum, the sum of exponentials is not (or the other way "
            "round).": right + top,
            "That is the loss with the first rank's columns alone.": largest[0] + np.log(exponentials[0]) - own[0],
            "The factor is upside down: a rank whose maximum is lower counts less, exp(its own - the common one).": top
            + np.log((exponentials * np.exp(top - largest)).sum(axis=0))
            - own.sum(axis=0),
        }
    return {sentence: losses for sentence, losses in found.items() if np.isfinite(losses).all()}


def _looks(answer: Answer, rng: Rng, sizes: list[int], tokens: int, scale: float, offset: float = 0.0) -> None:
    parts = [rng.normal(size=(tokens, size)) * scale + offset + scale * rng.normal() for size in sizes]
    arguments = _reported(parts, rng.integers(sum(sizes), size=tokens))
    given = f"{len(sizes)} ranks, {tokens} tokens, logits of about {offset:g} ± {scale:g}"
    suspects = _mistakes(*arguments)
    answer.expect(_right(*arguments), *arguments, given=given, suspects=suspects, rtol=1e-9, atol=1e-9)


@check_merge_losses.point(
    "small logits: the loss of each token is that of all columns together",
    hint="log of a sum of exponentials, minus the target's logit. Sums go over ranks, that is over axis 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, [4, 4], int(rng.integers(3, 9)), 1.0)
    _looks(answer, rng, [3, 3, 3, 2], 5, 1.0)


@check_merge_losses.point(
    "logits in the thousands, of either sign, neither overflow nor vanish",
    hint="Only differences to the common maximum may go into exp.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, [5, 5, 5], 4, 1.0, 5000.0)
    _looks(answer, rng, [5, 5], 4, 1.0, -5000.0)
    _looks(answer, rng, [6, 6], 7, 800.0)


@check_merge_losses.point(
    "one rank alone, and one token alone",
    hint="With one rank its maximum is the common one, and the factor is 1.",
)
def _(answer: Answer, rng: Rng) -> None:
    _looks(answer, rng, [9], 6, 3.0)
    _looks(answer, rng, [2, 2, 2], 1, 30.0)


@check_merge_losses.point(
    "a rank that has nothing but padding: largest -inf, exponentials 0",
    hint="exp(-inf) is 0, which is right; -inf minus -inf is not a number. Is the common maximum taken over all ranks?",
)
def _(answer: Answer, rng: Rng) -> None:
    largest, exponentials, own = _reported(
        [rng.normal(size=(4, 3)) * 20, rng.normal(size=(4, 3)) * 20], rng.integers(6, size=4)
    )
    nothing = np.zeros((1, 4))
    arguments = np.vstack([largest, nothing - np.inf]), np.vstack([exponentials, nothing]), np.vstack([own, nothing])
    suspects = _mistakes(*arguments)
    given = "3 ranks, the last with padding alone, 4 tokens"
    answer.expect(_right(*arguments), *arguments, given=given, suspects=suspects, rtol=1e-9, atol=1e-9)

"""10.1: a prompt in front of a padded batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_put_in_front = Check("soft_prompts.1", "put_in_front", parameters=("words", "mask", "prompt"))


def _batch(rng: Rng, rows: int, tokens: int, length: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Words [B, N, D], a mask [B, N] with padding at the end, a prompt [l, D]."""
    real = torch.from_numpy(rng.integers(1, tokens, rows))
    return _normal(rng, rows, tokens, width), torch.arange(tokens) < real[:, None], _normal(rng, length, width)


def _normal(rng: Rng, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def _part(answer: Answer, which: int, want: Tensor, arguments: tuple[Any, ...], suspects: Mapping[str, Tensor]) -> None:
    """Compare one of the two results."""

    def one(*args: Any) -> Any:
        both = answer(*args)
        if not isinstance(both, tuple) or len(both) != 2:
            raise NotOk(
                ("expected", "a pair: inputs, mask"),
                ("got", type(both).__name__),
                hint="Return both: return inputs, mask.",
            )
        return both[which]

    words, _, prompt = arguments
    given = (
        f"{answer.name} with words {tuple(words.shape)} and a prompt {tuple(prompt.shape)}: {('inputs', 'mask')[which]}"
    )
    got = one(*arguments)
    fitting = {sentence: value for sentence, value in suspects.items() if value.shape == want.shape}
    Answer(lambda *_: got, answer.name).expect(want, *arguments, given=given, suspects=fitting)


def _inputs(answer: Answer, arguments: tuple[Tensor, Tensor, Tensor]) -> None:
    words, _, prompt = arguments
    rows = prompt.expand(len(words), -1, -1)
    suspects = {
        "The prompt stands behind the text here, and so behind the padding.": torch.cat([words, rows], 1),
        "The prompt is upside down here.": torch.cat([rows.flip(1), words], 1),
        "Every vector of the prompt is the same here: it is one for each of the l places.":
            torch.cat([rows.mean(1, keepdim=True).expand_as(rows), words], 1),
    }  # fmt: skip
    _part(answer, 0, torch.cat([rows, words], 1), arguments, suspects)


def _mask(answer: Answer, arguments: tuple[Tensor, Tensor, Tensor]) -> None:
    words, mask, prompt = arguments
    new = torch.ones(len(words), len(prompt), dtype=torch.bool)
    suspects = {
        "The mask grows at its end here. The prompt stands in front: so must its part of the mask.":
            torch.cat([mask, new], 1),
        "The prompt is masked here, so that nobody hears it: it is as real as a word.": torch.cat([~new, mask], 1),
        "The mask grows at its end here, by places that are not real: the last words are lost.":
            torch.cat([mask, ~new], 1),
        "Everything is real here. The padding of the texts must stay masked.": torch.cat([new, mask | True], 1),
    }  # fmt: skip
    _part(answer, 1, torch.cat([new, mask], 1), arguments, suspects)


@check_put_in_front.point(
    "one text: the prompt's vectors first, then the words",
    hint="torch.cat along the dimension of the tokens, which is 1 in [B, N, D].",
)
def _(answer: Answer, rng: Rng) -> None:
    _inputs(answer, _batch(rng, 1, 6, 3, 8))


@check_put_in_front.point(
    "a batch: the same prompt before every text",
    hint="prompt is [l, D]; expand makes it [B, l, D] without copying.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(3):
        rows, tokens, length = (int(n) for n in rng.integers(2, 8, 3))
        _inputs(answer, _batch(rng, rows, tokens, length, 5))


@check_put_in_front.point(
    "the mask: the prompt is real, and stands in front there too",
    hint="As many columns of True as the prompt has vectors, before the columns of the mask.",
)
def _(answer: Answer, rng: Rng) -> None:
    _mask(answer, _batch(rng, 4, 7, 3, 8))


@check_put_in_front.point(
    "a prompt longer than the texts, and one of a single vector",
    hint="Take every size from the tensors: l from prompt, B from words.",
)
def _(answer: Answer, rng: Rng) -> None:
    for length in (12, 1):
        arguments = _batch(rng, 3, 4, length, 6)
        _inputs(answer, arguments)
        _mask(answer, arguments)


@check_put_in_front.point(
    "the gradient of all texts adds up in the prompt",
    hint="Do not detach or copy the prompt's numbers: prompt.expand(...) keeps the way back to the prompt.",
)
def _(answer: Answer, rng: Rng) -> None:
    words, mask, prompt = _batch(rng, 4, 5, 3, 6)
    _inputs(answer, (words, mask, prompt))
    prompt.requires_grad_()
    inputs, _ = answer(words, mask, prompt)
    weights = _normal(rng, 4, 8, 6)
    if not inputs.requires_grad:
        raise NotOk(("expected", "inputs that lead back to the prompt"), ("got", "inputs without a gradient"))
    (inputs * weights).sum().backward()
    assert prompt.grad is not None
    want = weights[:, :3].sum(0)
    if not torch.allclose(prompt.grad, want, rtol=1e-4, atol=1e-4):
        raise NotOk(("expected", "the sum over the four texts"), ("got", "another gradient in the prompt"))

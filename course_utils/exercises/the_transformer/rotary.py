"""Rotary positions: turn pairs of numbers by an angle that grows with the place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check
from course_utils.models.one_page_decoder import rotate

Rng = np.random.Generator

check_turn = Check("the_transformer.2", "turn", parameters=("x", "theta"))
TOLERANCE = 1e-4


def _numbers(rng: Rng, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def _neighbours(x: Tensor, theta: float) -> Tensor:
    """The pairs 0 and 1, 2 and 3, ...: as good a rule, but not Llama's."""
    half = x.shape[-1] // 2
    order = torch.arange(x.shape[-1]).view(half, 2).T.flatten()
    turned = rotate(x[..., order], theta)
    return turned[..., order.argsort()]


def _from_one(x: Tensor, theta: float) -> Tensor:
    before = torch.zeros_like(x[:, :, :1])
    return rotate(torch.cat([before, x], dim=2), theta)[:, :, 1:]


def _turns(answer: Answer, x: Tensor, theta: float) -> Tensor:
    want = rotate(x, theta)
    mistakes = {
        "The pairs are neighbours here, 0 and 1, 2 and 3. Number i goes with number i + d/2.": _neighbours(x, theta),
        "The first place has angle 0: count from 0, not from 1.": _from_one(x, theta),
        "The pairs turn the other way here: the second number takes + sin of the first.":
            rotate(x.flip(-1), theta).flip(-1),
        "The exponent is -2i/d for pair i, which is -i / (d/2): here the frequencies fall half as fast.":
            rotate(x, theta**0.5),
        "All pairs turn at the same speed here: the frequency falls from pair to pair.": rotate(x, 1.0),
    }  # fmt: skip
    suspects = {s: value for s, value in mistakes.items() if not torch.allclose(value, want, atol=10 * TOLERANCE)}
    given = f"{answer.name} with x {tuple(x.shape)}, theta {theta:g}"
    got: Tensor = answer.expect(want, x, theta, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)
    return got


@check_turn.point(
    "two numbers: at place p they are turned by the angle p",
    hint="(a, b) becomes (a cos - b sin, b cos + a sin). With d = 2 there is one pair, of frequency 1.",
)
def _(answer: Answer, rng: Rng) -> None:
    _turns(answer, _numbers(rng, 1, 1, int(rng.integers(3, 9)), 2), 1e4)


@check_turn.point(
    "pair i is number i and number i + d/2, of frequency theta^(-2i/d)",
    hint="first, second = x.chunk(2, dim=-1): their angles are [N, d/2].",
)
def _(answer: Answer, rng: Rng) -> None:
    for width in (4, 16):
        _turns(answer, _numbers(rng, 1, 2, 6, width), float(rng.integers(50, 5000)))


@check_turn.point(
    "batches, heads and theta",
    hint="The angles depend on place and pair alone; the first two dimensions are left as they are.",
)
def _(answer: Answer, rng: Rng) -> None:
    for theta in (10.0, 500_000.0):
        _turns(answer, _numbers(rng, 3, int(rng.integers(2, 6)), int(rng.integers(2, 12)), 8), theta)


@check_turn.point(
    "a product of two turned vectors knows how far apart they stand, and not where",
    hint="Both turn by the same rule, so that the angles' difference is left.",
)
def _(answer: Answer, rng: Rng) -> None:
    q, k = _numbers(rng, 1, 1, 1, 8), _numbers(rng, 1, 1, 1, 8)
    q, k = (answer(t.expand(-1, -1, 12, -1).clone(), 100.0)[0, 0] for t in (q, k))
    scores = q @ k.T
    apart = int(rng.integers(1, 4))
    along = torch.diagonal(scores, -apart)
    if not (along - along[0]).abs().max() < 1e-3 or (scores[-1] - scores[-1, 0]).abs().max() < 1e-2:
        said = ("given", f"one query and one key, at all pairs of places that are {apart} apart")
        raise NotOk(
            said, ("expected", "the same score, and another at other distances"), ("got", f"{along[:3].tolist()}")
        )


@check_turn.point(
    "the lengths stay, and the type of the numbers",
    hint="A turn changes no length. Cosines and sines are made in float32, and brought to x's type.",
)
def _(answer: Answer, rng: Rng) -> None:
    x = _numbers(rng, 2, 2, 5, 6)
    got = _turns(answer, x, 1e4)
    if not torch.allclose(got.norm(dim=-1), x.norm(dim=-1), rtol=1e-4):
        raise NotOk(
            ("given", f"{answer.name} with x {tuple(x.shape)}"), ("expected", "the lengths of x"), ("got", "others")
        )
    half = answer(x.to(torch.bfloat16), 1e4)
    if half.dtype != torch.bfloat16:
        said = ("given", f"{answer.name} with x in bfloat16")
        raise NotOk(said, ("expected", "dtype  torch.bfloat16"), ("got", f"dtype  {half.dtype}"))

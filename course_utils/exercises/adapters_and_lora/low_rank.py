"""11.1: a frozen layer with a low-rank update."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils.exercises.adapters_and_lora.multiplications import multiplications
from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]

check_low_rank = Check("adapters_and_lora.1", "low_rank", parameters=("x", "weight", "bias", "a", "b", "alpha"))
TOLERANCE = 1e-4


def normal(rng: Rng, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def _arguments(rng: Rng, leading: tuple[int, ...], inputs: int, outputs: int, rank: int) -> Arguments:
    weights = normal(rng, outputs, inputs), normal(rng, outputs), normal(rng, rank, inputs), normal(rng, outputs, rank)
    return (normal(rng, *leading, inputs), *weights, float(rng.integers(1, 5)) * rank + 0.5)


def _computes(answer: Answer, arguments: Arguments) -> None:
    x, weight, bias, a, b, alpha = arguments
    base, update, rank = x @ weight.T + bias, x @ a.T @ b.T, len(a)
    suspects = {
        "The update is not scaled here: it is multiplied by alpha / r.": base + update,
        "The update is multiplied by alpha and not divided by the rank here.": base + alpha * update,
        "This is the scaling of rsLoRA, alpha / sqrt(r). Here it is alpha / r.": base + alpha / rank**0.5 * update,
        "r is the rank, the rows of a: this divides by another size.": base + alpha / x.shape[-1] * update,
        "The frozen layer is missing: the update is added to what it returns.": alpha / rank * update,
        "The bias is missing.": base - bias + alpha / rank * update,
        "The update is missing.": base,
        "The scaling belongs to the update alone; the frozen layer stays as it is.": alpha / rank * (base + update),
    }
    given = f"{answer.name} with x {tuple(x.shape)}, weight {tuple(weight.shape)}, a {tuple(a.shape)}, alpha={alpha}"
    want = base + alpha / rank * update
    answer.expect(want, *arguments, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)


@check_low_rank.point(
    "with b = 0 it is the frozen layer",
    hint="x @ weight.T + bias, and something that is zero when b is.",
)
def _(answer: Answer, rng: Rng) -> None:
    x, weight, bias, a, b, alpha = _arguments(rng, (4,), 7, 5, 2)
    given = f"{answer.name} with x (4, 7), weight (5, 7), b all zero"
    want = x @ weight.T + bias
    suspects = {"The bias is missing.": x @ weight.T, "The frozen layer is missing.": torch.zeros_like(want)}
    arguments = (x, weight, bias, a, torch.zeros_like(b), alpha)
    answer.expect(want, *arguments, given=given, suspects=suspects, rtol=TOLERANCE, atol=TOLERANCE)


@check_low_rank.point(
    "the update is scaled by alpha / r",
    hint="weight @ x + bias + alpha / r * b @ (a @ x), with the rank r read off a.",
)
def _(answer: Answer, rng: Rng) -> None:
    for rank in (1, 3, 8):
        _computes(answer, _arguments(rng, (6,), 12, 9, rank))


@check_low_rank.point(
    "any dimensions in front: a batch of texts, or a single vector",
    hint="x @ a.T works on the last dimension, whatever stands before it.",
)
def _(answer: Answer, rng: Rng) -> None:
    for leading in ((2, 5), (), (2, 1, 3)):
        _computes(answer, _arguments(rng, leading, int(rng.integers(4, 9)), int(rng.integers(4, 9)), 2))


@check_low_rank.point(
    "a, b and x get their gradients",
    hint="Stay with tensors from x to the result: no .data, no .detach(), no no_grad().",
)
def _(answer: Answer, rng: Rng) -> None:
    arguments = _arguments(rng, (4, 3), 6, 5, 2)
    _computes(answer, arguments)
    x, weight, bias, a, b, alpha = arguments
    for tensor in (x, a, b):
        tensor.requires_grad_()
    slope = normal(rng, 4, 3, 5)
    want = torch.autograd.grad(((x @ weight.T + alpha / 2 * (x @ a.T) @ b.T) * slope).sum(), (x, a, b))
    out = answer(x, weight, bias, a, b, alpha)
    if not out.requires_grad:
        raise NotOk(("expected", "a result that leads back to a and b"), ("got", "a result without a gradient"))
    got = torch.autograd.grad((out * slope).sum(), (x, a, b), allow_unused=True)
    for name, mine, right in zip(("x", "a", "b"), got, want, strict=True):
        if mine is None or not torch.allclose(mine, right, rtol=1e-3, atol=1e-3):
            raise NotOk(("expected", f"the gradient of {name}"), ("got", "none" if mine is None else "another one"))


@check_low_rank.point(
    "thin: the product b a is never formed",
    hint="(x @ a.T) @ b.T costs r (in + out) for each row; x @ (b @ a).T costs in * out and more.",
)
def _(answer: Answer, rng: Rng) -> None:
    arguments = _arguments(rng, (4,), 64, 48, 2)
    _computes(answer, arguments)
    most, macs = 4 * (64 * 48 + 2 * (64 + 48)), multiplications(lambda: answer(*arguments))
    if macs > most:
        raise NotOk(("expected", f"at most {most:,} multiplications for 4 rows"), ("got", f"{macs:,}"))

"""Sequence parallelism: between attention and MLP, where every token is worked on alone, each rank has its tokens only.

An all-reduce is a reduce-scatter and then an all-gather. Tensor parallelism does both at once, and then all ranks do
the same work on the same tokens in norms, dropout and sums. Here that work stands between the two halves: the bytes are
the same, and what the norm regions keep for backward is divided by ``t``.

Source: Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from course_utils.tensor.collectives_with_gradient import Group, gather, gather_parts


class Sequence:
    """The tokens of a forward pass, which the ranks of a group share out.

    Args:
        gather_again: whether attention and MLP throw their whole input away after forward and gather it a second time
            in backward: then all that a layer keeps is divided by ``t``, for two more all-gathers a layer.
    """

    def __init__(self, group: Group = None, gather_again: bool = True) -> None:
        self.group, self.gather_again = group, gather_again
        self.length = 0  # tokens in all; the encoder sets it, since parts that may be padded do not tell

    def gathered(self, x: Tensor) -> Tensor | Gathered:
        """This rank's tokens ``[B, N/t, D]`` to all tokens, for column-parallel layers."""
        whole = gather_parts(x, self.length, self.group)  # [B, N, D]
        return Gathered(whole, x, _Again(self.length, self.group)) if self.gather_again else whole


class Gathered:
    """All tokens, for now: who multiplies them by a weight keeps this rank's tokens alone until backward."""

    def __init__(self, whole: Tensor, mine: Tensor, again: _Again) -> None:
        self.whole, self.mine, self.again = whole, mine, again

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear`` of all tokens: ``[B, N, D]`` to ``[B, N, out]``."""
        return _Linear.apply(self.whole, self.mine, weight, bias, self.again)


class _Again:
    """Gathers in backward what the layers on one input need: once for all of them, and kept no longer than needed."""

    def __init__(self, length: int, group: Group) -> None:
        self.length, self.group = length, group
        self.readers = self.waiting = 0
        self.whole: Tensor | None = None

    def expect(self) -> None:
        self.readers = self.waiting = self.readers + 1

    def read(self, mine: Tensor) -> Tensor:
        whole = gather(mine, self.length, self.group) if self.whole is None else self.whole
        self.waiting -= 1
        self.whole = whole if self.waiting else None
        self.waiting = self.waiting or self.readers  # for a graph that is gone through once more
        return whole


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, mine: Tensor, weight: Tensor, bias: Tensor | None, again: _Again) -> Tensor:
        ctx.save_for_backward(mine, weight)
        ctx.again = again
        if weight.requires_grad:
            again.expect()
        return F.linear(whole, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mine, weight = ctx.saved_tensors
        of_weight = of_bias = None
        if ctx.needs_input_grad[2]:
            x = ctx.again.read(mine).to(gradient.dtype)  # under autocast the product was taken in 16 bits
            of_weight = (gradient.flatten(0, -2).mT @ x.flatten(0, -2)).to(weight.dtype)  # [out, D]
        if ctx.needs_input_grad[3]:
            of_bias = gradient.flatten(0, -2).sum(0).to(weight.dtype)  # [out]
        return (gradient @ weight.to(gradient.dtype)).to(mine.dtype), None, of_weight, of_bias, None


class CopyTogether(torch.autograd.Function):
    """Parameters that are whole, for work on parts of the tokens: ``copy_to_ranks`` for all of them in one message.

    Each rank's gradient knows its own tokens only. To forget this sum is a mistake that no error message tells of.
    """

    @staticmethod
    def forward(ctx: Any, group: Group, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat, group=ctx.group)
        pieces = flat.split([g.numel() for g in gradients])
        return None, *(piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True))

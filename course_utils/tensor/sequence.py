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
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.models.layers import Layers
from course_utils.tensor.collectives_with_gradient import Group, all_gather, gather, gather_to_ranks, scatter
from course_utils.tensor.layers import ColumnParallelLinear, blocks_of, draw_own_numbers, shards_of


class SequenceParallelLayers(nn.Module):
    """A row of layers in which each rank has its own tokens alone; attention and MLP gather them.

    Tokens go in and come out whole. A number of tokens that the ranks do not divide is padded in between.
    """

    def __init__(self, whole: Layers, group: Group = None) -> None:
        super().__init__()
        self.layers, self.group = whole.layers, group
        self.length = 0  # tokens of this forward pass: shards that may be padded do not tell
        for layer in self.layers:
            draw_own_numbers(layer.get_submodule("dropout"), "p", group)
        for block in blocks_of(self):
            block.register_forward_pre_hook(GatherTokens(self, block))

    def forward(self, x: Tensor, shared: Any = None) -> Tensor:
        """As ``Layers.forward``; what is shared, such as a mask, speaks of all tokens."""
        self.length = x.shape[1]
        x = scatter(x, self.group)  # [B, N, D] -> [B, N/t, D]
        for layer in self.layers:
            x = functional_call(layer, summed_over_ranks(layer, self.group), (x, shared))
        return gather(x, self.length, self.group)


def summed_over_ranks(layer: nn.Module, group: Group = None) -> dict[str, Tensor]:
    """The whole parameters of a layer (of norms, and the row-parallel biases), with a gradient that is summed over the
    ranks: each rank's own knows its own tokens only. To forget this sum is a mistake that no error message tells of."""
    shards = shards_of(layer)
    whole = {name: p for name, p in layer.named_parameters() if name not in shards and p.requires_grad}
    return dict(zip(whole, CopyTogether.apply(group, *whole.values()), strict=True)) if whole else {}


class CopyTogether(torch.autograd.Function):
    """``copy_to_ranks`` for several tensors, with one message in backward."""

    @staticmethod
    def forward(ctx: Any, group: Group, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat, group=ctx.group)
        pieces = flat.split([g.numel() for g in gradients])
        return None, *(piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True))


class GatherTokens:
    """A forward pre-hook of a block: this rank's tokens ``[B, N/t, D]`` to all tokens ``[B, N, D]``, once for all
    column-parallel layers that the block holds."""

    def __init__(self, row: SequenceParallelLayers, block: nn.Module) -> None:
        self.row = row
        self.columns = [child for child in block.children() if isinstance(child, GatheringAgainLinear)]

    def __call__(self, block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        mine, *others = args
        whole = gather_to_ranks(mine, self.row.length, self.row.group)
        if self.columns:
            again = _Again(mine.detach(), self.row.length, self.row.group)
            for column in self.columns:
                column.again = again
            if whole.requires_grad:
                whole.register_hook(again.forget)  # its gradient is complete: all layers have had their input
        return whole, *others


class GatheringAgainLinear(ColumnParallelLinear):
    """A column-parallel layer that keeps this rank's tokens alone, and gathers all tokens a second time in backward."""

    again: _Again | None = None  # of this call: :class:`GatherTokens` puts it here

    def forward(self, x: Tensor) -> Tensor:
        again, self.again = self.again, None
        return super().forward(x) if again is None else _LinearAgain.apply(x, again.mine, self.weight, self.bias, again)


class _Again:
    """The common input of a block's layers in backward: gathered for the first that needs it, kept for the others."""

    def __init__(self, mine: Tensor, length: int, group: Group) -> None:
        self.mine, self.length, self.group = mine, length, group
        self.whole: Tensor | None = None

    def gather(self, mine: Tensor) -> Tensor:
        if self.whole is None:
            self.whole = all_gather(mine, self.length, self.group)
        return self.whole

    def forget(self, gradient: Tensor) -> None:
        self.whole = None


class _LinearAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, mine: Tensor, weight: Tensor, bias: Tensor | None, again: _Again) -> Tensor:
        ctx.save_for_backward(mine, weight)
        ctx.again = again
        return F.linear(whole, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mine, weight = ctx.saved_tensors
        of_weight = of_bias = None
        if ctx.needs_input_grad[2]:
            x = ctx.again.gather(mine).to(gradient.dtype)  # under autocast the product was taken in 16 bits
            of_weight = (gradient.flatten(0, -2).mT @ x.flatten(0, -2)).to(weight.dtype)  # [out, D]
        if ctx.needs_input_grad[3]:
            of_bias = gradient.flatten(0, -2).sum(0).to(weight.dtype)  # [out]
        return (gradient @ weight.to(gradient.dtype)).to(mine.dtype), None, of_weight, of_bias, None

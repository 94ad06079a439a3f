"""Collectives with a gradient: three pairs of operations, each of which is the other's backward pass.

A tensor is in one of three states on the ranks of a group, by the names of torch's DTensor: *replicated*, the same on
all of them; *sharded*, each rank has its slice; or *partial*, the true value is the sum over ranks. Each function takes
a tensor from one state to another, and its gradient the way back:

    =================== ================== =================== ========================
    function            forward            backward            from, to
    =================== ================== =================== ========================
    copy_to_ranks       nothing            all-reduce          replicated to replicated
    sum_over_ranks      all-reduce         nothing             partial to replicated
    gather_to_ranks     all-gather         reduce-scatter      sharded to replicated
    scatter_sum         reduce-scatter     all-gather          partial to sharded
    scatter             slice              all-gather          replicated to sharded
    gather              all-gather         slice               sharded to replicated
    =================== ================== =================== ========================

``gather_to_ranks`` and ``gather`` differ in what follows. Ranks that compute different things from the whole send back
partial sums of its gradient. Ranks that all compute the same send back the same gradient, and to add it up would make
it too large. Lengths that the ranks do not divide are padded with zeros and cut off again.

Source: Shoeybi et al. 2019, arXiv:1909.08053 (the first pair, there f and g); Korthikanti et al. 2022, arXiv:2205.05198
(the second).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Group = dist.ProcessGroup | None
Operation = Callable[[Tensor], Tensor]


class CollectiveWithGradient(torch.autograd.Function):
    """One operation in forward, and for the gradient another in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, of_gradient: Operation) -> Tensor:
        ctx.of_gradient = of_gradient
        return operation(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.of_gradient(gradient), None, None


def copy_to_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Hand a tensor to ranks that will compute different things from it; its gradient is the sum of theirs."""
    return CollectiveWithGradient.apply(x, _nothing, partial(all_reduce, group=group))


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Add up partial sums. Every rank's addend has the gradient of the sum, so nothing is sent in backward."""
    return CollectiveWithGradient.apply(x, partial(all_reduce, group=group), _nothing)


def gather_to_ranks(x: Tensor, length: int, group: Group = None, *, dim: int = 1) -> Tensor:
    """Shards to the whole, ``length`` long along ``dim``, for ranks that will compute different things from it."""
    operation = partial(all_gather, length=length, group=group, dim=dim)
    return CollectiveWithGradient.apply(x, operation, partial(reduce_scatter, group=group, dim=dim))


def scatter_sum(x: Tensor, group: Group = None, *, dim: int = 1) -> Tensor:
    """Add up partial sums and keep this rank's shard of the result."""
    of_gradient = partial(all_gather, length=x.shape[dim], group=group, dim=dim)
    return CollectiveWithGradient.apply(x, partial(reduce_scatter, group=group, dim=dim), of_gradient)


def scatter(x: Tensor, group: Group = None, *, dim: int = 1) -> Tensor:
    """This rank's shard of a tensor that is the same on all ranks."""
    of_gradient = partial(all_gather, length=x.shape[dim], group=group, dim=dim)
    return CollectiveWithGradient.apply(x, partial(shard, group=group, dim=dim), of_gradient)


def gather(x: Tensor, length: int, group: Group = None, *, dim: int = 1) -> Tensor:
    """Shards to the whole, ``length`` long along ``dim``, for ranks that all compute the same from it."""
    operation = partial(all_gather, length=length, group=group, dim=dim)
    return CollectiveWithGradient.apply(x, operation, partial(shard, group=group, dim=dim))


# The operations, without a gradient ---------------------------------------------------------------------------------


def _nothing(x: Tensor) -> Tensor:
    return x


def all_reduce(x: Tensor, group: Group = None) -> Tensor:
    """The sum over ranks, as a new tensor."""
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def all_gather(x: Tensor, length: int, group: Group = None, dim: int = 1) -> Tensor:
    """All ranks' shards in a row, cut to ``length``."""
    x = x.contiguous()
    shards = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shards, x, group=group)
    return torch.cat(shards, dim).narrow(dim, 0, length)


def reduce_scatter(x: Tensor, group: Group = None, dim: int = 1) -> Tensor:
    """This rank's shard of the sum over ranks."""
    shards = [s.contiguous() for s in _padded_chunks(x, dist.get_world_size(group), dim)]
    mine = torch.empty_like(shards[0])
    dist.reduce_scatter(mine, shards, group=group)
    return mine


def shard(x: Tensor, group: Group = None, dim: int = 1) -> Tensor:
    """This rank's shard, in memory of its own: a view would keep the whole alive."""
    return _padded_chunks(x, dist.get_world_size(group), dim)[dist.get_rank(group)].clone()


def _padded_chunks(x: Tensor, ranks: int, dim: int) -> tuple[Tensor, ...]:
    """``ranks`` chunks of equal length, the last of them filled up with zeros: 5 over 4 ranks is 2, 2, 1 + 1, 0 + 2."""
    missing = -x.shape[dim] % ranks
    if missing:
        x = F.pad(x, [0, 0] * (x.dim() - 1 - dim % x.dim()) + [0, missing])
    return x.chunk(ranks, dim)

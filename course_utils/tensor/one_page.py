"""Tensor parallelism on one page: each rank has a part of every matrix, and all ranks work on the same tokens.

A block is a matrix cut by columns, something that acts on each column alone (GELU) or on groups of them (the heads of
attention), and a matrix cut by rows. What the columns return, the rows take; between the two nothing is sent. Each rank
ends with a partial sum, and one all-reduce adds them up. It has a counterpart where the input enters the block.

An all-reduce is a reduce-scatter and an all-gather. Sequence parallelism does the first half where a block ends and the
second where the next begins, and in between (norms, dropout, sums) each rank has its own tokens alone.

Shapes: t ranks, N tokens, D width, F columns of the first matrices. Sources: Shoeybi et al. 2019, arXiv:1909.08053;
Korthikanti et al. 2022, arXiv:2205.05198.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Operation = Callable[[Tensor], Tensor]


class Collective(torch.autograd.Function):
    """One operation forward, and for the gradient another backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Operation, of_gradient: Operation) -> Tensor:
        ctx.of_gradient = of_gradient
        return operation(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.of_gradient(gradient), None, None


def nothing(x: Tensor) -> Tensor:
    return x


def all_reduce(x: Tensor) -> Tensor:  # the sum over the ranks, on all of them
    x = x.clone()
    dist.all_reduce(x)
    return x


def all_gather(x: Tensor) -> Tensor:  # [N/t, D] -> [N, D]
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def reduce_scatter(x: Tensor) -> Tensor:  # [N, D] -> [N/t, D]: of the sum over the ranks, this rank's tokens
    parts = list(x.contiguous().chunk(dist.get_world_size()))
    mine = torch.empty_like(parts[0])
    dist.reduce_scatter(mine, parts)
    return mine


def by_columns(whole: nn.Linear) -> nn.Linear:  # D -> F becomes D -> F/t; torch's weight is the transpose, [F, D]
    part = nn.Linear(whole.in_features, whole.out_features // dist.get_world_size())
    part.weight.data = whole.weight.data.chunk(dist.get_world_size(), dim=0)[dist.get_rank()].clone()
    part.bias.data = whole.bias.data.chunk(dist.get_world_size())[dist.get_rank()].clone()
    return part


def by_rows(whole: nn.Linear) -> nn.Linear:  # F -> D becomes F/t -> D; the bias stays whole
    part = nn.Linear(whole.in_features // dist.get_world_size(), whole.out_features)
    part.weight.data = whole.weight.data.chunk(dist.get_world_size(), dim=1)[dist.get_rank()].clone()
    part.bias.data = whole.bias.data.clone()
    return part


def tensor_parallel(x: Tensor, columns: list[nn.Linear], inside: Callable[..., Tensor], rows: nn.Linear) -> Tensor:
    x = Collective.apply(x, nothing, all_reduce)  # [N, D] for ranks that do different things with it
    x = inside(*(linear(x) for linear in columns))  # [N, F/t]: finished columns, all that the rows below need
    x = Collective.apply(F.linear(x, rows.weight), all_reduce, nothing)  # [N, D] partial sums -> [N, D]
    return x + rows.bias  # once, after the sum


def sequence_parallel(x: Tensor, columns: list[nn.Linear], inside: Callable[..., Tensor], rows: nn.Linear) -> Tensor:
    x = Collective.apply(x, all_gather, reduce_scatter)  # [N/t, D], this rank's tokens -> [N, D]
    x = inside(*(linear(x) for linear in columns))
    x = Collective.apply(F.linear(x, rows.weight), reduce_scatter, all_gather)  # [N, D] partial sums -> [N/t, D]
    return x + Collective.apply(rows.bias, nothing, all_reduce)  # its gradient comes from the tokens of all ranks

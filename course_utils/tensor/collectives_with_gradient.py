"""Communication with a gradient: three pairs of operations, each of which is the other's backward pass.

A tensor is in one of three states on the ranks of a group: *whole*, the same on all of them; *in parts*, each rank has
its slice; or a *partial sum*, the true value is the sum over ranks. Each function takes a tensor from one state to
another, and its gradient the way back:

    =================== ================== =================== ==================
    function            forward            backward            from, to
    =================== ================== =================== ==================
    copy_to_ranks       nothing            all-reduce          whole to whole
    sum_over_ranks      all-reduce         nothing             partial sum to whole
    gather_parts        all-gather         reduce-scatter      parts to whole
    sum_into_parts      reduce-scatter     all-gather          partial sum to parts
    take_part           slice              all-gather          whole to parts
    join_parts          all-gather         slice               parts to whole
    =================== ================== =================== ==================

``gather_parts`` and ``join_parts`` differ in what follows: ranks that compute different things from the whole send back
partial sums of its gradient; ranks that all compute the same send back the same gradient, and adding it up would make
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
Step = Callable[[Tensor], Tensor]


class _Pair(torch.autograd.Function):
    """One function on the way there, another on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Step, back: Step) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def copy_to_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Hand a whole tensor to ranks that will compute different things from it; the gradient is the sum of theirs."""
    return _Pair.apply(x, _same, partial(all_reduce, group=group))


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Add up partial sums. Every rank's addend has the gradient of the sum, so nothing is sent on the way back."""
    return _Pair.apply(x, partial(all_reduce, group=group), _same)


def gather_parts(x: Tensor, length: int, group: Group = None, *, dim: int = 1) -> Tensor:
    """Put parts together for ranks that will compute different things from the whole, ``length`` long along ``dim``."""
    return _Pair.apply(x, partial(gather, length=length, group=group, dim=dim), partial(scatter, group=group, dim=dim))


def sum_into_parts(x: Tensor, group: Group = None, *, dim: int = 1) -> Tensor:
    """Add up partial sums and keep this rank's part of the result."""
    back = partial(gather, length=x.shape[dim], group=group, dim=dim)
    return _Pair.apply(x, partial(scatter, group=group, dim=dim), back)


def take_part(x: Tensor, group: Group = None, *, dim: int = 1) -> Tensor:
    """This rank's part of a tensor that is whole."""
    back = partial(gather, length=x.shape[dim], group=group, dim=dim)
    return _Pair.apply(x, partial(part, group=group, dim=dim), back)


def join_parts(x: Tensor, length: int, group: Group = None, *, dim: int = 1) -> Tensor:
    """Put parts together for ranks that all compute the same from the whole, ``length`` long along ``dim``."""
    return _Pair.apply(x, partial(gather, length=length, group=group, dim=dim), partial(part, group=group, dim=dim))


# The four moves, without a gradient ---------------------------------------------------------------------------------


def _same(x: Tensor) -> Tensor:
    return x


def all_reduce(x: Tensor, group: Group = None) -> Tensor:
    """The sum over ranks, as a new tensor."""
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def gather(x: Tensor, length: int, group: Group = None, dim: int = 1) -> Tensor:
    """All ranks' parts in a row, cut to ``length``."""
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x, group=group)
    return torch.cat(parts, dim).narrow(dim, 0, length)


def scatter(x: Tensor, group: Group = None, dim: int = 1) -> Tensor:
    """This rank's part of the sum over ranks."""
    parts = [p.contiguous() for p in split(x, dist.get_world_size(group), dim)]
    mine = torch.empty_like(parts[0])
    dist.reduce_scatter(mine, parts, group=group)
    return mine


def part(x: Tensor, group: Group = None, dim: int = 1) -> Tensor:
    """This rank's part, in memory of its own: a view would keep the whole alive."""
    return split(x, dist.get_world_size(group), dim)[dist.get_rank(group)].clone()


def split(x: Tensor, ranks: int, dim: int) -> tuple[Tensor, ...]:
    """``ranks`` parts of equal length, the last of them filled up with zeros: 5 over 4 ranks is 2, 2, 1 + 1, 0 + 2."""
    missing = -x.shape[dim] % ranks
    if missing:
        x = F.pad(x, [0, 0] * (x.dim() - 1 - dim % x.dim()) + [0, missing])
    return x.chunk(ranks, dim)

"""The layers of tensor parallelism: linear layers cut by columns or rows, and the encoder's attention and MLP of them.

``t`` ranks; ``B`` samples, ``N`` tokens, ``D`` width, as in ``models.encoder``. A column-parallel layer has ``1/t`` of
the outputs: results stand side by side. A row-parallel layer has ``1/t`` of the inputs: results are added up.
Column, then row: what the first leaves in parts is what the second wants in parts, and between the two nothing is sent.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.encoder import MLP, Attention
from course_utils.tensor.collectives_with_gradient import (
    Group,
    copy_to_ranks,
    join_parts,
    part,
    sum_into_parts,
    sum_over_ranks,
)
from course_utils.tensor.sequence import Gathered, Sequence


class Cut(NamedTuple):
    """How a parameter is cut: along dimension ``dim``, which is ``length`` long in the whole."""

    dim: int
    length: int


class ColumnParallelLinear(nn.Module):
    """``1/t`` of the outputs of a ``Linear``: the whole input ``[..., in]`` to this rank's columns ``[..., out/t]``.

    The input has come through ``copy_to_ranks``: once for all layers that read it, not in each of them.
    """

    def __init__(self, whole: nn.Linear, group: Group = None) -> None:
        super().__init__()
        self.cuts = dict.fromkeys(("weight", "bias"), Cut(0, whole.out_features))
        self.weight = cut(whole.weight, 0, group)  # [out/t, in], torch's transpose
        self.bias = None if whole.bias is None else cut(whole.bias, 0, group)  # [out/t]

    def forward(self, x: Tensor | Gathered) -> Tensor:
        if isinstance(x, Gathered):  # sequence parallelism
            return x.linear(self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """``1/t`` of the inputs of a ``Linear``: this rank's part ``[..., in/t]`` to the whole sum ``[..., out]``.

    With sequence parallelism the sum comes in parts, by tokens: ``[B, N, in/t]`` to ``[B, N/t, out]``.
    """

    def __init__(self, whole: nn.Linear, group: Group = None, sequence: Sequence | None = None) -> None:
        super().__init__()
        self.group, self.sequence = group, sequence
        self.cuts = {"weight": Cut(1, whole.in_features)}
        self.weight = cut(whole.weight, 1, group)  # [out, in/t]
        self.bias = None if whole.bias is None else copied(whole.bias)  # [out]

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight)  # [..., out], a partial sum
        add = sum_over_ranks if self.sequence is None else sum_into_parts
        x = add(x, self.group)
        return x if self.bias is None else x + self.bias  # once, behind the sum


class ParallelAttention(Attention):
    """``h/t`` heads of the encoder's attention. The course's own ``Attention`` does the work: fewer columns are fewer
    heads, and a head needs no other head."""

    def __init__(self, whole: Attention, group: Group = None, sequence: Sequence | None = None) -> None:
        nn.Module.__init__(self)
        self.head_width, self.dropout, self.implementation = whole.head_width, whole.dropout, whole.implementation
        self.group, self.sequence = group, sequence
        for name in ("q_proj", "k_proj", "v_proj"):
            self.add_module(name, ColumnParallelLinear(getattr(whole, name), group))
        self.add_module("out_proj", RowParallelLinear(whole.out_proj, group, sequence))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """As ``Attention.forward``; with sequence parallelism ``x`` and the result are this rank's tokens, and
        ``attention_mask`` speaks of all tokens."""
        x = whole_input(x, self.group, self.sequence)
        draws = self.training and self.dropout > 0
        with own_randomness(x, self.group) if draws else nullcontext():
            return super().forward(x, attention_mask)

    def weights(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The attention weights of all heads, ``[B, h, N, N]``."""
        heads = self.q_proj.cuts["weight"].length // self.head_width  # type: ignore[index, union-attr]
        return join_parts(super().weights(whole_input(x, self.group, self.sequence), attention_mask), heads, self.group)


class ParallelMLP(MLP):
    """``1/t`` of the hidden units of the encoder's MLP. GELU acts on each unit alone, so the units need not meet."""

    def __init__(self, whole: MLP, group: Group = None, sequence: Sequence | None = None) -> None:
        nn.Module.__init__(self)
        self.group, self.sequence = group, sequence
        self.add_module("fc1", ColumnParallelLinear(whole.fc1, group))
        self.add_module("fc2", RowParallelLinear(whole.fc2, group, sequence))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(whole_input(x, self.group, self.sequence))


def whole_input(x: Tensor, group: Group, sequence: Sequence | None) -> Any:
    """What a block's column-parallel layers read: all tokens, with a gradient that is summed over the ranks.

    A tensor or a ``Gathered``: attention and MLP hand it to those layers and look at it no further.
    """
    return copy_to_ranks(x, group) if sequence is None else sequence.gathered(x)


class OwnDropout(nn.Dropout):
    """Dropout for what is in parts: each rank drops by chance of its own."""

    def __init__(self, p: float, group: Group = None) -> None:
        super().__init__(p)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        with own_randomness(x, self.group) if self.training and self.p > 0 else nullcontext():
            return super().forward(x)


def own_randomness(x: object, group: Group = None) -> AbstractContextManager[None]:
    """Within it, random numbers differ from rank to rank; afterwards all ranks draw the same again.

    The ranks' generators are in the same state, so that dropout on what is whole drops the same everywhere. From it all
    draw one seed, to which each adds its number: a run is repeated by restoring the ordinary generator alone.
    """
    device = x.device if isinstance(x, Tensor) else torch.device("cpu")
    return _own_randomness(device, dist.get_rank(group))


@contextmanager
def _own_randomness(device: torch.device, rank: int) -> Iterator[None]:
    seed = int(torch.randint(2**62, ()))
    cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index] if cuda else torch.default_generator
    shared = generator.get_state()
    generator.manual_seed(seed + rank)
    try:
        yield
    finally:
        generator.set_state(shared)


def cut(whole: Tensor, dim: int, group: Group = None) -> nn.Parameter:
    """This rank's part of a whole parameter, as a parameter."""
    return nn.Parameter(part(whole.detach(), group, dim), requires_grad=whole.requires_grad)


def copied(whole: Tensor) -> nn.Parameter:
    """A whole parameter, in memory of its own."""
    return nn.Parameter(whole.detach().clone(), requires_grad=whole.requires_grad)

"""The layers of tensor parallelism: linear layers cut by columns or rows, and what is put round the blocks of them.

``t`` ranks; ``B`` samples, ``N`` tokens, ``D`` width, as in ``models.encoder``. A column-parallel layer has ``1/t`` of
the outputs: results stand side by side. A row-parallel layer has ``1/t`` of the inputs: results are added up.
Column, then row: the second takes the shards that the first returns, and between the two nothing is sent.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.tensor.collectives_with_gradient import (
    Group,
    all_reduce,
    copy_to_ranks,
    scatter_sum,
    shard,
    sum_over_ranks,
)


class Shard(NamedTuple):
    """How a parameter is cut: along dimension ``dim``, which is ``length`` long in the whole."""

    dim: int
    length: int


class ColumnParallelLinear(nn.Module):
    """``1/t`` of the outputs of a ``Linear``: the whole input ``[..., in]`` to this rank's columns ``[..., out/t]``.

    The input has come through ``copy_to_ranks``: once for all layers that read it (:func:`copy_input`).
    """

    def __init__(self, whole: nn.Linear, group: Group = None) -> None:
        super().__init__()
        self.shards = dict.fromkeys(("weight", "bias"), Shard(0, whole.out_features))
        self.weight = shard_parameter(whole.weight, 0, group)  # [out/t, in], torch's transpose
        self.bias = None if whole.bias is None else shard_parameter(whole.bias, 0, group)  # [out/t]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """``1/t`` of the inputs of a ``Linear``: this rank's ``[..., in/t]`` to the whole sum ``[..., out]``.

    With ``by_tokens``, for sequence parallelism, each rank gets the sum of its tokens: ``[B, N, in/t]`` to
    ``[B, N/t, out]``.
    """

    def __init__(self, whole: nn.Linear, group: Group = None, by_tokens: bool = False) -> None:
        super().__init__()
        self.group, self.by_tokens = group, by_tokens
        self.shards = {"weight": Shard(1, whole.in_features)}
        self.weight = shard_parameter(whole.weight, 1, group)  # [out, in/t]
        bias = whole.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)  # [out]

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight)  # [..., out], a partial sum
        x = scatter_sum(x, self.group) if self.by_tokens else sum_over_ranks(x, self.group)
        return x if self.bias is None else x + self.bias  # once, after the sum


def shards_of(model: nn.Module) -> dict[str, Shard]:
    """The parameters of which this rank has a shard: name -> how it is cut. All others are whole."""
    return {
        f"{prefix}.{name}".removeprefix("."): shard
        for prefix, module in model.named_modules()
        for name, shard in getattr(module, "shards", {}).items()
        if getattr(module, name) is not None
    }


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that hold column-parallel layers, such as attention and MLP."""
    return [m for m in model.modules() if any(isinstance(child, ColumnParallelLinear) for child in m.children())]


def copy_input(block: nn.Module, group: Group = None) -> None:
    """Let a block's input go through ``copy_to_ranks``, once for all column-parallel layers that the block holds."""
    block.register_forward_pre_hook(lambda _, args: (copy_to_ranks(args[0], group), *args[1:]))


def sum_gradients(module: nn.Module, group: Group = None) -> None:
    """Sum the gradients of a module's parameters over the ranks: all hold them whole, and each uses them on its own
    heads alone. Without the sum the ranks drift apart, and no error tells of it."""

    def summed(gradient: Tensor) -> Tensor:
        return all_reduce(gradient, group)

    for p in module.parameters():
        if p.requires_grad:
            p.register_hook(summed)


def draw_own_numbers(module: nn.Module, dropout: str, group: Group = None) -> None:
    """Let a module whose numbers are sharded drop others on each rank; afterwards all ranks draw the same again.

    The ranks' generators are in the same state, so that dropout on what is replicated drops the same everywhere. From
    the CPU's all draw one seed, to which each adds its rank: a run is repeated by restoring the generators alone.

    Args:
        dropout: the module's attribute that holds the probability.
    """
    states: list[tuple[torch.Generator, Tensor]] = []  # what to go back to

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training and getattr(module, dropout) > 0:
            seed = int(torch.randint(2**62, ()))
            generator = generator_of(args[0].device)
            states.append((generator, generator.get_state()))
            generator.manual_seed(seed + dist.get_rank(group))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if states:
            generator, state = states.pop()
            generator.set_state(state)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)  # also when the forward fails


def generator_of(device: torch.device) -> torch.Generator:
    """The generator from which dropout on this device draws."""
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator


def shard_parameter(whole: Tensor, dim: int, group: Group = None) -> nn.Parameter:
    """This rank's shard of a whole parameter, as a parameter."""
    return nn.Parameter(shard(whole.detach(), group, dim), requires_grad=whole.requires_grad)

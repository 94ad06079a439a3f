"""Replicas of a model on several ranks: the same to begin with, updated through a root, averaged over unequal parts."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def check_same_everywhere(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """See that all ranks hold the same parameters and buffers by name, shape, dtype and whether they are trained.

    Raises:
        ValueError: with the first difference; on all ranks, before anything else is sent.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    mine = [f"{name} {list(t.shape)} {t.dtype}{' trained' if t.requires_grad else ''}" for name, t in tensors]
    everybody: list[list[str]] = [[] for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(everybody, mine, group=group)
    for rank, theirs in enumerate(everybody):
        if theirs != everybody[0]:
            only = sorted(set(theirs) ^ set(everybody[0])) or ["the order"]
            raise ValueError(
                f"ranks 0 and {rank} hold different models; first difference: {only[0]}. Build the same model on every "
                "rank; their weights may differ, and are made equal"
            )


@torch.no_grad()
def make_equal(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Copy rank 0's parameters and buffers to all ranks."""
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor, group=group, group_src=0)


@torch.no_grad()
def root_step(module: nn.Module, optimizer: torch.optim.Optimizer, group: dist.ProcessGroup | None = None) -> None:
    """One update the old way: all gradients to rank 0, averaged and applied there, the new weights to everybody.

    Everything goes through rank 0, one rank after the other, and only its optimizer has anything to do.
    """
    others = range(1, dist.get_world_size(group))
    if dist.get_rank(group) == 0:
        for parameter in module.parameters():
            assert parameter.grad is not None
            received = torch.empty_like(parameter)
            for other in others:
                dist.recv(received, group=group, group_src=other)
                parameter.grad += received
            parameter.grad /= len(others) + 1
        optimizer.step()
        for parameter in module.parameters():
            for other in others:
                dist.send(parameter, group=group, group_dst=other)
    else:
        for parameter in module.parameters():
            assert parameter.grad is not None
            dist.send(parameter.grad, group=group, group_dst=0)
        for parameter in module.parameters():
            dist.recv(parameter, group=group, group_src=0)


def global_mean(loss_sum: Tensor, count: float, group: dist.ProcessGroup | None = None) -> Tensor:
    """A loss whose gradient, averaged over ranks, is that of the mean over all samples of all ranks.

    Args:
        loss_sum: the *sum* of this rank's losses, with ``reduction="sum"``.
        count: what a mean over this rank would divide by; it may differ between ranks. For a plain loss, how many
            samples (for a language model: tokens); with ``ignore_index``, how many targets are not ignored; with
            ``weight``, the sum of their weights.

    Returns:
        ``N * loss_sum / (count of all ranks together)``; its mean over ranks is the mean loss.

    Raises:
        ValueError: no rank has anything to count.
    """
    total = torch.tensor(count, dtype=torch.float64, device=loss_sum.device)  # FP32 counts no further than 2**24
    dist.all_reduce(total, group=group)
    if not total:
        raise ValueError("no rank has a sample: there is no mean to take")
    return loss_sum * (dist.get_world_size(group) / total).to(torch.promote_types(loss_sum.dtype, torch.float32))

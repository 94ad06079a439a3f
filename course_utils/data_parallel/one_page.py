"""Data parallelism on one page: N ranks hold the same model, see an N-th of the batch, and average their gradients.

A ring all-reduce adds up a vector over all ranks. Each of its N chunks travels round the ring and is added to at every
stop, and travels round once more and is copied. A bucket is one vector for the gradients of several parameters. It
leaves when its last gradient has come, while backward still computes the gradients of earlier layers.

Shapes: S numbers of a vector, N ranks. Sources: Patarasuk and Yuan 2009 (the ring); Li et al. 2020, arXiv:2006.15704.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn


def ring_all_reduce(vector: Tensor) -> None:
    """Put the sum of all ranks' vectors [S] in the place of each."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    chunks = vector.tensor_split(ranks)  # N views of [S / N]
    for turn in range(ranks - 1):  # reduce-scatter: in the end rank r has the sum of chunk r
        received = torch.empty_like(chunks[(rank - turn - 2) % ranks])
        pass_on(chunks[(rank - turn - 1) % ranks], received)
        chunks[(rank - turn - 2) % ranks].add_(received)
    for turn in range(ranks - 1):  # all-gather: the sums go round
        pass_on(chunks[(rank - turn) % ranks], chunks[(rank - turn - 1) % ranks])


def pass_on(chunk: Tensor, received: Tensor) -> None:
    """Send to the next rank and receive from the one before, at the same time: else all would wait for each other."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    send = dist.P2POp(dist.isend, chunk, (rank + 1) % ranks)
    receive = dist.P2POp(dist.irecv, received, (rank - 1) % ranks)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()


class Bucket:
    """Room for the gradients of some parameters in one vector."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        sizes = [p.numel() for p in parameters]
        self.flat = torch.zeros(sum(sizes))  # [S]
        parts = self.flat.split(sizes)
        self.views = {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}
        self.missing = len(parameters)
        self.work: dist.Work


class DataParallel(nn.Module):
    """A model whose gradients are averaged in buckets of so many numbers, from hooks, while backward runs."""

    def __init__(self, model: nn.Module, bucket_size: int) -> None:
        super().__init__()
        self.model, self.buckets = model, []
        for p in model.parameters():
            dist.broadcast(p.data, src=0)  # equal weights, once; equal steps keep them equal
        groups: list[list[nn.Parameter]] = []
        room = 0
        for p in reversed(list(model.parameters())):  # about the order in which gradients come
            if p.numel() > room:
                groups.append([])
                room = bucket_size
            groups[-1].append(p)
            room -= p.numel()
        for group in groups:
            self.buckets.append(Bucket(group))
            for p in group:
                p.register_post_accumulate_grad_hook(partial(self.collect, self.buckets[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def collect(self, bucket: Bucket, p: nn.Parameter) -> None:
        """Autograd has added up the gradient of p: into the bucket with it, which leaves if it was the last."""
        bucket.views[p][...] = p.grad
        p.grad = bucket.views[p]
        bucket.missing -= 1
        if bucket.missing == 0:
            bucket.flat /= dist.get_world_size()
            bucket.work = dist.all_reduce(bucket.flat, async_op=True)  # like the ring above, and backward goes on

    def wait(self) -> None:
        """After backward and before the step: until every bucket is averaged."""
        for bucket in self.buckets:
            bucket.work.wait()
            bucket.missing = len(bucket.views)

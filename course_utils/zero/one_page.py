"""ZeRO on one page: N ranks train one model by data parallelism, and each keeps an N-th of what the others keep too.

A layer's weights lie in one flat vector, filled up with zeros so that N divides it; rank r owns its r-th part, a shard.
Stage 1 shards the optimizer's state, for each rank updates its shard alone. Stage 2 shards the gradients too, as soon
as backward has them. Stage 3 shards the weights too: they have memory only while their layer computes.

Shapes: P numbers of a layer, N ranks. Source: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.zero.units import all_gather, reduce_scatter  # torch's, under the names of this torch


class Zero1(nn.Module):
    """A layer of which this rank updates a shard, and holds the optimizer's state for no more."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        ranks, rank = dist.get_world_size(), dist.get_rank()
        self.layer, self.shapes = layer, {name: p.shape for name, p in layer.named_parameters()}
        flat = nn.utils.parameters_to_vector(layer.parameters()).detach()
        self.flat = F.pad(flat, (0, -len(flat) % ranks)).requires_grad_()  # [P]
        self.shard = nn.Parameter(self.flat.detach().chunk(ranks)[rank])  # [P / N], a view of flat
        for p in layer.parameters():
            p.data = torch.empty(0)  # the layer's own weights are not needed any more

    def forward(self, x: Tensor) -> Tensor:
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = self.flat[: sum(sizes)].split(sizes)  # views: all gradients arrive at once, in flat.grad
        weights = {n: part.view(shape) for (n, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return functional_call(self.layer, weights, x)

    def reduce_scatter(self) -> None:  # all ranks' gradients [P] -> the mean of this rank's shard [P / N]
        self.shard.grad = torch.empty_like(self.shard)
        reduce_scatter(self.shard.grad, self.flat.grad)
        self.shard.grad /= dist.get_world_size()
        self.flat.grad = None

    def all_gather(self) -> None:  # all ranks' new shards [P / N] -> the weights [P]
        all_gather(self.flat.data, self.shard.data)


class Zero2(Zero1):
    """Of the gradients this rank holds a shard, as soon as backward has all of the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.flat.register_post_accumulate_grad_hook(lambda _: self.reduce_scatter())


class Zero3(Zero2):
    """Of the weights this rank holds a shard, and all of them only while the layer computes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.shard = nn.Parameter(self.shard.detach().clone())  # with memory of its own
        self.reshard()

    def unshard(self) -> None:
        self.flat.untyped_storage().resize_(self.flat.nbytes)
        self.all_gather()

    def reshard(self) -> None:
        self.flat.untyped_storage().resize_(0)

    def forward(self, x: Tensor) -> Tensor:
        self.unshard()
        y = super().forward(x)
        y.register_hook(lambda _: self.unshard())  # the gradient of y has come: the layer's backward is next
        self.reshard()
        return y

    def reduce_scatter(self) -> None:  # the layer's backward is over
        super().reduce_scatter()
        self.reshard()


def step(layers: list[Zero1], optimizer: torch.optim.Optimizer) -> None:  # after backward
    for layer in layers:
        if layer.flat.grad is not None:  # stage 1; the others have done it during backward
            layer.reduce_scatter()
    optimizer.step()
    for layer in layers:
        if not isinstance(layer, Zero3):  # which gathers when it needs them
            layer.all_gather()

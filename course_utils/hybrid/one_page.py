"""One step of data x pipeline x tensor parallelism, on one page.

Every rank stands at one place of a box of d x p x t: it holds one of t slices of each layer, of one of p stages, of one
of d replicas. Within a layer the slices add up partial sums, between stages activations travel on and gradients back,
at the end the replicas average. The model has ``embed``, ``encoder.layers`` and ``forward_head``, as the course's have.

Shapes: between stages travels [B/(d m), N, D]; m micro-batches, N tokens of width D. Source: arXiv:2104.04473.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Meet(torch.autograd.Function):
    """The slices add up: their results, in forward, or the gradients of what they all read, in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, in_forward: bool) -> Tensor:
        ctx.group, ctx.in_backward = group, not in_forward
        return _summed(x, group) if in_forward else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _summed(gradient, ctx.group) if ctx.in_backward else gradient, None, None


def _summed(x: Tensor, group: Any) -> Tensor:
    x = x.clone()
    dist.all_reduce(x, group=group)
    return x


def take_slice(layer: Any, place: int, t: int, group: Any) -> None:
    """Keep 1/t of a layer: columns of the first matrices of attention and MLP, rows of the matrix behind them."""

    def part(whole: Tensor, dim: int) -> nn.Parameter:
        return nn.Parameter(whole.detach().chunk(t, dim)[place].clone())

    for linear in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj, layer.mlp.fc1):
        linear.weight, linear.bias = part(linear.weight, 0), part(linear.bias, 0)  # [out/t, in], [out/t]
    for linear in (layer.attention.out_proj, layer.mlp.fc2):
        linear.weight, linear.bias = part(linear.weight, 1), linear.bias if place == 0 else None  # [out, in/t]
    for block in (layer.attention, layer.mlp):
        block.register_forward_pre_hook(lambda _, args: (Meet.apply(args[0], group, False), *args[1:]))
        block.register_forward_hook(lambda _, args, out: Meet.apply(out, group, True))


class ThreeAxes:
    """This rank's part of a model that is the same on all ranks to begin with."""

    def __init__(self, model: Any, d: int, p: int, t: int) -> None:
        box, self.groups = torch.arange(d * p * t).view(d, p, t), list[Any]()
        for axis in range(3):
            for ranks in box.movedim(axis, -1).flatten(0, 1).tolist():
                group = dist.new_group(ranks)  # every rank makes every group, its own or not
                self.groups += [group] if dist.get_rank() in ranks else []
        self.places = (box == dist.get_rank()).nonzero()[0].tolist()  # replica, stage, slice
        self.model, self.sizes, each = model, (d, p, t), len(model.encoder.layers) // p
        model.encoder.layers = model.encoder.layers[self.places[1] * each :][:each]
        for layer in model.encoder.layers:
            take_slice(layer, self.places[2], t, self.groups[2])

    def step(self, x: Tensor, y: Tensor, loss_fn: Any, m: int, shape: tuple[int, ...]) -> Tensor:
        """Gradients of a batch that all ranks are given; returns the replica's loss, at its last stage."""
        (d, p, _), (replica, stage, _), (data, pipeline, _) = self.sizes, self.places, self.groups
        live, loss = [], torch.zeros(())

        def receive(source: int) -> Tensor:
            dist.recv(tensor := next(self.model.parameters()).new_empty(shape), group=pipeline, group_src=source)
            return tensor

        for images, labels in zip(x.chunk(d)[replica].chunk(m), y.chunk(d)[replica].chunk(m), strict=True):
            entered: Any = self.model.embed(images) if stage == 0 else receive(stage - 1).requires_grad_()
            out = self.model.encoder(entered)
            if stage < p - 1:
                dist.send(out.detach(), group=pipeline, group_dst=stage + 1)
            else:
                out = loss_fn(self.model.forward_head(out), labels) / m
                loss = loss + out.detach()
            live.append((entered, out))
        for entered, out in live:  # all forwards are through: backwards (GPipe)
            out.backward(None if stage == p - 1 else receive(stage + 1))
            if stage > 0:
                dist.send(entered.grad, group=pipeline, group_dst=stage - 1)
        for parameter in (q for q in self.model.parameters() if q.grad is not None):  # another stage's head has none
            parameter.grad = _summed(parameter.grad, data) / d
        return loss

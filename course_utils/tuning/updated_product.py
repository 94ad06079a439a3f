"""A frozen matrix with a low-rank update, as one step of autograd whose gradients are written out.

Letters used for shapes: ``M`` rows, ``in``, ``out`` the width of a layer's input and output, ``r`` the rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def updated_product(base: nn.Linear, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """``W x + b + s B A x``, ``[..., in]`` to ``[..., out]``, of a layer for which :func:`is_plain` holds."""
    out: Tensor = UpdatedProduct.apply(x, base.weight, base.bias, a, b, scaling)
    return out


def is_plain(base: nn.Module, x: Tensor, a: Tensor) -> bool:
    """Whether the written-out step may take the place of autograd's: the layer is an ordinary ``Linear``, it is frozen,
    and everything has one dtype, which autocast does not change."""
    if type(base).forward is not nn.Linear.forward:
        return False
    assert isinstance(base, nn.Linear)
    frozen = not any(parameter.requires_grad for parameter in base.parameters())
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return frozen and x.dtype == base.weight.dtype == a.dtype and not autocast


class UpdatedProduct(torch.autograd.Function):
    """``W x + b + s B A x`` and its gradients, written out; ``W`` and ``b`` are frozen and get none.

    autograd alone computes the same. But it makes a tensor of its own for ``s B A x`` and for its gradient and adds
    them afterwards; here the thin products are added while they are formed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # [M, in]
        low = scaling * (a @ rows.T)  # [r, M]: lying down, the thin product is several times as fast
        y = F.linear(rows, weight, bias)  # [M, out]
        torch.addmm(y, low.T, b.T, out=y)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scaling, ctx.shape = scaling, x.shape
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        g = grads[0].reshape(-1, len(weight))  # [M, out]
        g_low = ctx.scaling * (g @ b)  # [M, r]
        g_rows = None
        if ctx.needs_input_grad[0]:  # not in the first layer, below which nothing trains
            g_rows = g @ weight  # [M, in]: as dear as the forward product, frozen or not
            g_rows = torch.addmm(g_rows, g_low, a, out=g_rows).view(ctx.shape)
        return g_rows, None, None, g_low.T @ rows, (low @ g).T, None

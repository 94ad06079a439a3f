"""NF4, the four-bit format of QLoRA, and a frozen linear layer that holds its weight in it.

A block of 64 neighbours stores one FP32 scale, its largest magnitude, and for each number the code of the nearest of 16
levels: 4 + 32 / 64 bits a number. The levels are quantiles of the normal distribution, so that about equally many
numbers of a normal block get each code. Source: Dettmers et al. 2023, arXiv:2305.14314, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64


def nf4_levels() -> Tensor:
    """The 16 values from -1 to 1, float32: eight above zero, seven below, and zero itself."""
    quantile = torch.special.ndtri  # of the normal distribution
    largest = 1 - (1 / 32 + 1 / 30) / 2  # where the paper ends: the quantile of 1 is infinite
    above = quantile(torch.linspace(0.5, largest, 9, dtype=torch.float64))  # from zero up
    below = -quantile(torch.linspace(0.5, largest, 8, dtype=torch.float64))[1:]
    return (torch.cat([below.flip(0), above]) / above[-1]).float()


def pack_nf4(values: Tensor) -> tuple[Tensor, Tensor]:
    """``n`` values of any shape to codes, two a byte, ``[n / 2]`` uint8, and scales, ``[n / 64, 1]`` float32.

    Raises:
        ValueError: when n is no multiple of the block size.
    """
    if values.numel() % BLOCK:
        raise ValueError(f"NF4 takes blocks of {BLOCK}, and there are {values.numel()} values: pad them to a multiple")
    levels = nf4_levels().to(values.device)
    blocks = values.float().reshape(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    between = (levels[1:] + levels[:-1]) / 2  # the nearest level changes here
    codes = torch.bucketize(blocks / scales.clamp_min(torch.finfo(torch.float32).tiny), between).to(torch.uint8)
    low, high = codes.reshape(-1, 2).unbind(1)
    return low | high << 4, scales


def unpack_nf4(codes: Tensor, scales: Tensor) -> Tensor:
    """The values, ``[n]`` float32."""
    both = torch.stack([codes & 15, codes >> 4], dim=1)  # [n / 2, 2]
    return (nf4_levels().to(codes.device)[both.int()].reshape(-1, BLOCK) * scales).flatten()


class NF4Linear(nn.Linear):
    """A frozen ``Linear`` that holds its weight in NF4 and nowhere else: ``[..., in]`` to ``[..., out]``.

    Args:
        linear: whose weight is packed, and whose bias is taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # not that of Linear, which would make a weight of its own
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scales = pack_nf4(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """``[out, in]`` float32, unpacked anew each time."""
        codes, scales = self.get_buffer("codes"), self.get_buffer("scales")
        return unpack_nf4(codes, scales).view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = UnpackedProduct.apply(input, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class UnpackedProduct(torch.autograd.Function):
    """``W x`` with a frozen ``W`` that is unpacked for the forward pass, and again for the backward pass.

    Between the two nothing is kept. autograd alone would keep the unpacked matrix, which it needs to pass the gradient
    on, and with all layers' matrices unpacked nothing would be saved.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight.to(grads[0].dtype), None

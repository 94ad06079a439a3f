"""A layer that takes time and nothing else: on it a schedule can be watched without a GPU for each rank."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn


class Delay(nn.Module):
    """Returns its input, after ``forward`` seconds; its backward waits as well, for the input and for the weights.

    While it waits it leaves the processor to others, as a rank does that waits for its GPU: so four ranks on two cores
    keep to the times they were given. A layer before it in the same stage must have weights; a first stage would not
    compute the gradient of its input otherwise.

    Args:
        forward, backward_input, backward_weight: seconds.
    """

    def __init__(self, forward: float, backward_input: float = 0.0, backward_weight: float = 0.0) -> None:
        super().__init__()
        self.seconds = (forward, backward_input, backward_weight)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        forward, backward_input, backward_weight = self.seconds
        return _Wait.apply(x, forward, backward_input) + _Wait.apply(self.weight, 0.0, backward_weight)


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float, seconds_back: float) -> Tensor:
        ctx.seconds_back = seconds_back
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds_back)
        return gradients[0], None, None

"""A row of layers: what every Transformer here is made of, and what every way to divide one takes hold of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Layers(nn.Module):
    """Layers one after another, ``[B, N, D]`` to ``[B, N, D]``."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, shared: Any = None) -> Tensor:
        """Run them.

        Args:
            x: ``[B, N, D]``.
            shared: what each layer is given besides, such as a mask: the same for all.
        """
        for layer in self.layers:
            x = layer(x, shared)
        return x

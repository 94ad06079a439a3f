"""Bottleneck adapters: a small MLP with its own skip connection behind a frozen projection.

Sources: Houlsby et al. 2019, arXiv:1902.00751 (two in each layer); Pfeiffer et al. 2021, arXiv:2005.00247 (one).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.tuning.layer import Adapter, Method, check_count

# Where the adapters stand: behind the output projection of a sub-layer, before its sum with the tokens it read. The
# names are this course's and those of BERT in transformers.
_ATTENTION, _MLP = r"(attention\.out_proj|attention\.output\.dense)", r"(mlp\.fc2|layer\.\d+\.output\.dense)"
HOULSBY_PLACES = re.compile(rf"(.*\.)?({_ATTENTION}|{_MLP})")
PFEIFFER_PLACES = re.compile(rf"(.*\.)?{_MLP}")


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Method):
    """Adapters of ``2 d r + r + d`` parameters behind ``Linear`` layers of output width ``d``.

    ``inject(model, Bottleneck(width=64), HOULSBY_PLACES)`` puts one behind attention and one behind the MLP of each
    layer, ``PFEIFFER_PLACES`` one behind the MLP. Both papers train the layers' LayerNorms too: add them by ``train=``.

    Args:
        width: of the bottleneck, ``r``.
        activation: the nonlinearity between the two matrices, without which they would be one of low rank.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    width: int = 64
    activation: Literal["gelu", "relu"] = "gelu"
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    def __post_init__(self) -> None:
        check_count("width", self.width, 64)
        if self.activation not in ("gelu", "relu"):
            raise ValueError(f'activation {self.activation!r} is unknown: choose "gelu" or "relu"')

    def adapter(self, base: nn.Module, name: str) -> BottleneckAdapter:
        assert isinstance(base, nn.Linear)
        return BottleneckAdapter(self, base)


class BottleneckAdapter(Adapter):
    """Down to ``r`` numbers, a nonlinearity, up again, added to what came in: ``[..., d]`` to ``[..., d]``."""

    def __init__(self, method: Bottleneck, base: nn.Linear) -> None:
        super().__init__()
        device, dtype = base.weight.device, base.weight.dtype
        self.down = nn.Linear(base.out_features, method.width, device=device, dtype=dtype)
        self.up = nn.Linear(method.width, base.out_features, device=device, dtype=dtype)
        # The adapter begins as the identity: random numbers here would break every layer of a trained model at once.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.activation = method.activation

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        h = base(*args, **kwargs)  # [..., d]
        low = self.down(h)  # [..., r]
        return h + self.up(F.gelu(low) if self.activation == "gelu" else F.relu(low))

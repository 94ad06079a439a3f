"""(IA)3: every key, value and hidden unit of the MLP gets one trained factor.

Source: Liu et al. 2022, arXiv:2205.05638.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from course_utils.tuning.layer import Adapter, Method


@dataclass(frozen=True, kw_only=True)
class IA3(Method):
    """One factor for each output of a ``Linear``, or for each input, all 1 at the start.

    ``inject(model, IA3(), ["k_proj", "v_proj", "fc2"])`` is the paper's choice: ``2 d + f`` parameters a layer.

    Args:
        inputs: regular expression for the names of the layers whose inputs are scaled. By default the second matrix of
            an MLP, whose inputs are the hidden units (names as in this course and in BERT of transformers).
    """

    inputs: str = r"(.*\.)?(mlp\.fc2|layer\.\d+\.output\.dense)"
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    def adapter(self, base: nn.Module, name: str) -> Factors:
        assert isinstance(base, nn.Linear)
        return Factors(base, inputs=re.fullmatch(self.inputs, name) is not None)


class Factors(Adapter):
    """The factors of one layer: ``[in]`` if its inputs are scaled, else ``[out]``."""

    def __init__(self, base: nn.Linear, inputs: bool) -> None:
        super().__init__()
        self.inputs = inputs
        self.factors = nn.Parameter(base.weight.new_ones(base.in_features if inputs else base.out_features))

    def forward(self, base: nn.Module, x: Tensor) -> Tensor:
        return base(x * self.factors) if self.inputs else base(x) * self.factors

    def merged(self, base: nn.Module) -> dict[str, Tensor]:
        assert isinstance(base, nn.Linear)
        if self.inputs:
            return {"weight": base.weight * self.factors}
        scaled = {"weight": base.weight * self.factors[:, None]}
        return scaled if base.bias is None else scaled | {"bias": base.bias * self.factors}

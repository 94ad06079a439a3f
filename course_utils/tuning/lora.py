"""LoRA: a frozen weight ``W`` plus a trained product of two thin matrices, ``W + s B A``.

Letters used for shapes: ``in``, ``out`` the width of a layer's input and output, ``r`` the rank.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Kalajdzievski 2023, arXiv:2312.03732 (rank-stabilised scaling);
Liu et al. 2024, arXiv:2402.09353 (DoRA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.tuning.layer import Adapter, Method, check_count, check_share, trained_dtype
from course_utils.tuning.updated_product import is_plain, updated_product


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank adaptation of ``Linear``, ``Embedding`` and ``Conv2d`` layers: ``r (in + out)`` parameters each.

    Args:
        rank: ``r``, columns of ``B`` and rows of ``A``.
        alpha: the update is scaled by ``alpha / r``, so that another rank does not ask for another learning rate.
        dropout: share of the inputs dropped before ``A``; the frozen branch sees them all.
        rslora: scale by ``alpha / sqrt(r)``, which keeps the size of the update for ranks of 64 and more.
        dora: learn the length of each output's weight vector apart from its direction, ``out`` parameters more.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Embedding, nn.Conv2d)

    def __post_init__(self) -> None:
        check_count("rank", self.rank, 8)
        check_share("dropout", self.dropout)
        if not self.alpha > 0:
            raise ValueError(f"alpha {self.alpha!r} must be above 0: choose one or two times the rank")

    @property
    def scaling(self) -> float:
        """What the product ``B A`` is multiplied by, ``s``."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def adapter(self, base: nn.Module, name: str) -> LowRank:
        kind = next(kind for layer, kind in KINDS.items() if isinstance(base, layer))
        return kind(self, base)


class LowRank(Adapter):
    """``A`` and ``B`` of one layer. Each kind of layer is a matrix ``[out, in]``, applied in its own way."""

    def __init__(self, method: LoRA, base: nn.Module) -> None:
        super().__init__()
        self.scaling = method.scaling
        self.dropout = nn.Dropout(method.dropout)
        self.groups = int(getattr(base, "groups", 1))  # a grouped convolution is one small matrix for each group
        weight = self.matrix(base)  # [out, in]
        dtype = trained_dtype(weight)
        self.A = nn.Parameter(weight.new_empty(self.groups * method.rank, weight.shape[1], dtype=dtype))
        self.B = nn.Parameter(weight.new_zeros(weight.shape[0], method.rank, dtype=dtype))
        self.reset_parameters()
        # The length of each output's weights, [out]: with B A = 0 it changes nothing.
        self.magnitude = nn.Parameter(self.length(base).clone()) if method.dora else None

    def reset_parameters(self) -> None:
        """B = 0: the tuned layer begins as the layer. So A gets no gradient in the first step, and B moves alone;
        were A zero as well, neither ever would."""
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # uniform within 1 / sqrt(in), as nn.Linear

    def delta(self) -> Tensor:
        """The update ``s B A``, ``[out, in]``."""
        blocks = self.B.unflatten(0, (self.groups, -1)) @ self.A.unflatten(0, (self.groups, -1))  # [groups, ., in]
        return self.scaling * blocks.flatten(0, 1)

    def forward(self, base: nn.Module, x: Tensor) -> Tensor:
        y = base(x)
        update = self.branch(base, x).to(y.dtype)  # s B A x
        return y + update if self.magnitude is None else self.rescaled(base, y, update)

    def rescaled(self, base: nn.Module, y: Tensor, update: Tensor) -> Tensor:
        """DoRA: ``m (W + s B A) x / |W + s B A|``, where the length is taken as a constant (section 4.3 of the paper).
        While the ratio ``m / |W + s B A|`` is 1, this is exactly ``y + update``."""
        assert self.magnitude is not None
        ratio = self.per_output((self.magnitude / self.length(base)).to(y.dtype))
        bias = getattr(base, "bias", None)
        product = y if bias is None else y - self.per_output(bias)  # W x
        return y + (ratio - 1) * product + ratio * update

    def merged(self, base: nn.Module) -> dict[str, Tensor]:
        weight = self.matrix(base) + self.delta()
        if self.magnitude is not None:
            weight = weight * (self.magnitude / self.length(base))[:, None]
        return {"weight": self.shaped(weight, base)}

    @torch.no_grad()
    def length(self, base: nn.Module) -> Tensor:
        """The Euclidean length of each row of ``W + s B A``, ``[out]``."""
        return torch.linalg.vector_norm(self.matrix(base) + self.delta(), dim=1)

    def branch(self, base: nn.Module, x: Tensor) -> Tensor:
        """``s B A x``, never as one matrix: two thin products cost ``r (in + out)`` per token, not ``in * out``."""
        raise NotImplementedError

    @staticmethod
    def matrix(base: nn.Module) -> Tensor:
        """The layer's weight as ``[out, in]``."""
        assert isinstance(base.weight, Tensor)
        return base.weight.flatten(1)

    @staticmethod
    def shaped(matrix: Tensor, base: nn.Module) -> Tensor:
        """The inverse: ``[out, in]`` in the shape of the layer's weight."""
        assert isinstance(base.weight, Tensor)
        return matrix.view_as(base.weight)

    @staticmethod
    def per_output(vector: Tensor) -> Tensor:
        """``[out]`` in a shape that multiplies the layer's output."""
        return vector


class LowRankLinear(LowRank):
    """Of an ``nn.Linear``: ``[..., in]`` to ``[..., out]``."""

    def forward(self, base: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(base, nn.Linear)
        dropped = self.training and self.dropout.p > 0
        if self.magnitude is not None or dropped or not is_plain(base, x, self.A):
            return super().forward(base, x)  # base(x) + s B A x
        return updated_product(base, x, self.A, self.B, self.scaling)  # the same in one step

    def branch(self, base: nn.Module, x: Tensor) -> Tensor:
        low = F.linear(self.dropout(x.to(self.A.dtype)), self.A)  # [..., r]
        return F.linear(low * self.scaling, self.B)  # scaled where it is thin


class LowRankEmbedding(LowRank):
    """Of an ``nn.Embedding``, whose table is ``[in, out]``: in = tokens. Ids ``[...]`` to ``[..., out]``."""

    def reset_parameters(self) -> None:
        # Here A = 0 and B is random: a token's row changes when the token has been seen. The other way round, the
        # first step would move every token of the vocabulary.
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)

    def branch(self, base: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(base, nn.Embedding)
        low = F.embedding(x, self.A.T, base.padding_idx)  # [..., r]
        return F.linear(low * self.scaling, self.B)

    @staticmethod
    def matrix(base: nn.Module) -> Tensor:
        assert isinstance(base, nn.Embedding)
        return base.weight.T

    @staticmethod
    def shaped(matrix: Tensor, base: nn.Module) -> Tensor:
        return matrix.T


class LowRankConv2d(LowRank):
    """Of an ``nn.Conv2d``: a convolution to ``r`` channels with the layer's own window, then one of 1 x 1."""

    def __init__(self, method: LoRA, base: nn.Module) -> None:
        super().__init__(method, base)
        self.plain = type(base).forward is nn.Conv2d.forward
        if not self.plain and method.dropout:
            raise ValueError(
                f"a {type(base).__name__} computes in its own way, and the low-rank branch cannot be kept apart from "
                "it, as dropout needs: choose dropout=0, or leave this layer out"
            )

    def forward(self, base: nn.Module, x: Tensor) -> Tensor:
        if self.plain:
            return super().forward(base, x)
        # Patches may come out as tokens, or weights be normalised first: such a layer runs with the tuned weight.
        weight = self.merged(base)["weight"]
        return functional_call(base, {"weight": weight.to(self.matrix(base).dtype)}, (x,))

    def branch(self, base: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(base, nn.Conv2d)
        window = self.A.unflatten(1, base.weight.shape[1:])  # [groups * r, C / groups, kernel height, kernel width]
        low = base._conv_forward(self.dropout(x.to(self.A.dtype)), window, None)  # stride, padding, groups: the base's
        return F.conv2d(low * self.scaling, self.B[:, :, None, None], groups=self.groups)

    @staticmethod
    def per_output(vector: Tensor) -> Tensor:
        return vector[:, None, None]


KINDS: dict[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    nn.Embedding: LowRankEmbedding,
    nn.Conv2d: LowRankConv2d,
}

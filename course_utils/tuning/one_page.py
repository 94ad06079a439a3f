"""LoRA and prefix tuning on one page: a frozen model, and a few numbers that train beside its layers.

LoRA adds to a frozen matrix W the product of two thin matrices: W x + s B A x. Prefix tuning gives the attention of
every layer a few more keys and values. In both, a small module takes the place of a layer, holds it, and calls it.

Shapes: B texts, N tokens, D width of the model, h heads, d = D / h; r rank, l length of the prefix.
Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Li and Liang 2021, arXiv:2101.00190 (prefix tuning).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.encoder import Attention


def inject(model: nn.Module, names: set[str], around: Callable[[Any], nn.Module]) -> None:
    """Freeze a model; then ``around(layer)`` takes the place of each layer whose name ends in one of ``names``."""
    model.requires_grad_(False)
    for path, layer in list(model.named_modules()):  # path: "encoder.layers.0.attention.q_proj"
        owner, _, name = path.rpartition(".")
        if name in names:
            setattr(model.get_submodule(owner), name, around(layer))


class PrefixAttention(nn.Module):
    """A frozen attention in which every token also sees ``l`` trained keys and values: [B, N, D] to [B, N, D]."""

    def __init__(self, attention: Attention, length: int) -> None:
        super().__init__()
        self.attention = attention
        width = attention.k_proj.out_features
        self.keys = nn.Parameter(torch.randn(length, width))  # [l, D]
        self.values = nn.Parameter(torch.randn(length, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        frozen, texts = self.attention, len(x)
        q = frozen.q_proj(x)  # [B, N, D]: a prefix has no queries, so no token is added
        k = torch.cat([self.keys.expand(texts, -1, -1), frozen.k_proj(x)], dim=1)  # [B, l + N, D]
        v = torch.cat([self.values.expand(texts, -1, -1), frozen.v_proj(x)], dim=1)
        q, k, v = (t.unflatten(-1, (-1, frozen.head_width)).transpose(1, 2) for t in (q, k, v))  # [B, h, ., d]
        if mask is not None:  # [B, N], True where a token is real; every text sees the whole prefix
            mask = F.pad(mask, (len(self.keys), 0), value=True)[:, None, None]  # [B, 1, 1, l + N]
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, N, d]
        return frozen.out_proj(heads.transpose(1, 2).flatten(2))


class LoRALinear(nn.Module):
    """A frozen ``W x + b``, and beside it ``s B A x`` with two thin matrices that train: [.., in] to [.., out]."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)  # [r, in]
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))  # [out, r]: zero, so nothing is changed yet
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scaling * (x @ self.A.T) @ self.B.T  # [.., in] -> [.., r] -> [.., out]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The frozen layer with the update added to its weight: it computes the same alone."""
        self.linear.weight += self.scaling * self.B @ self.A  # [out, in]
        return self.linear


def merge(model: nn.Module) -> None:
    """Write every update into its weight; the model is then an ordinary one again, and as fast."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LoRALinear):
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, layer.merged())

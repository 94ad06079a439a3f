"""The one Transformer encoder of this course: attention, MLP, layer, encoder.

Letters used for shapes: ``B`` images or sentences, ``N`` tokens, ``D`` width, ``h`` heads, ``d = D / h`` width of one
head.

Source: Vaswani et al. 2017, arXiv:1706.03762 (attention, post-norm); Xiong et al. 2020, arXiv:2002.04745 (pre-norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from course_utils.models.layers import Layers


def check_counts(config: Any, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that is no whole number of at least 1."""
    for name in names:
        if not isinstance(value := getattr(config, name), int) or value < 1:
            raise ValueError(f"{name} {value!r} is no count: choose a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that decides what an :class:`Encoder` computes. Immutable and checked when it is made.

    Args:
        width: numbers per token, ``D``.
        depth: layers.
        heads: attention heads per layer; must divide ``width``.
        mlp_ratio: hidden width of the MLP, as a multiple of ``width``.
        dropout: probability that a number is dropped after each attention and MLP, 0 <= p < 1.
        attention_dropout: probability that an attention weight is dropped.
        drop_path: probability that a sample skips the branches of the last layer (stochastic depth, arXiv:1603.09382).
            In earlier layers it is less, in proportion to their depth.
        norm_eps: added to the variance by LayerNorm.
        qkv_bias: whether queries, keys and values have a bias.
        norm_first: LayerNorm before each branch (pre-norm: ViT, GPT) or after each sum (post-norm: BERT).
        attention: ``"sdpa"`` calls torch's fused kernel, ``"written_out"`` the three lines it stands for.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    norm_first: bool = True
    attention: Literal["sdpa", "written_out"] = "sdpa"

    def __post_init__(self) -> None:
        check_counts(self, "width", "depth", "heads")
        if self.width % self.heads:
            below = self.width // self.heads * self.heads
            near = [str(w) for w in (below, below + self.heads) if w]
            raise ValueError(
                f"width {self.width} cannot be split over {self.heads} heads: choose a width that is a multiple of "
                f"{self.heads}, such as {' or '.join(near)}, or a number of heads that divides {self.width}"
            )
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= (p := getattr(self, name)) < 1:
                raise ValueError(f"{name} {p!r} is no probability: choose a number from 0 (off) to below 1")
        if self.mlp_width < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio!r} leaves the MLP no hidden unit: choose one such as 4")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps {self.norm_eps!r} must be above 0: choose 1e-6 (ViT) or 1e-12 (BERT)")
        if self.attention not in ("sdpa", "written_out"):
            raise ValueError(f'attention {self.attention!r} is unknown: choose "sdpa" or "written_out"')

    @property
    def mlp_width(self) -> int:
        """Hidden units of the MLP."""
        return round(self.width * self.mlp_ratio)

    @property
    def head_width(self) -> int:
        """Numbers per head, ``d``."""
        return self.width // self.heads


class Attention(nn.Module):
    """Multi-head attention: each token takes a weighted mean of the values of all tokens.

    Queries, keys and values are three separate ``Linear``: each can be named (LoRA on ``q_proj``), cut by columns
    (tensor parallelism) or loaded alone. One matrix product of three times the width is no faster at this size.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.dropout = config.attention_dropout
        self.implementation = config.attention
        self.q_proj = nn.Linear(config.width, config.width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, config.width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, config.width, bias=config.qkv_bias)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: ``[B, N, D]``.
            attention_mask: ``[B, N]`` bool, True where a token is real, False where it is padding. Each row needs at
                least one True.

        Returns:
            ``[B, N, D]``.
        """
        q, k, v = (split_heads(linear(x), self.head_width) for linear in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0
        if self.implementation == "sdpa":
            mask = None if attention_mask is None else attention_mask[:, None, None, :]  # [B, 1, 1, N]
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:
            heads = F.dropout(attention_weights(q, k, attention_mask), dropout) @ v  # [B, h, N, d]
        return self.out_proj(join_heads(heads))

    def weights(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The attention weights themselves, ``[B, h, N, N]``, which :meth:`forward` does not keep."""
        q, k = (split_heads(linear(x), self.head_width) for linear in (self.q_proj, self.k_proj))
        return attention_weights(q, k, attention_mask)


def split_heads(x: Tensor, head_width: int) -> Tensor:
    """``[B, N, D]`` to ``[B, h, N, d]``. The number of heads is read off the tensor: fewer columns are fewer heads."""
    return rearrange(x, "b n (h d) -> b h n d", d=head_width)


def join_heads(x: Tensor) -> Tensor:
    """``[B, h, N, d]`` to ``[B, N, D]``, the way back."""
    return rearrange(x, "b h n d -> b n (h d)")


def attention_weights(q: Tensor, k: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)): M queries ``[B, h, M, d]`` and N keys ``[B, h, N, d]`` to ``[B, h, M, N]``. Each row
    sums to one."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, None, None, :], -torch.inf)
    return scores.softmax(dim=-1)


class MLP(nn.Module):
    """Two ``Linear`` with a GELU between, applied to each token alone: ``[B, N, D]`` to ``[B, N, D]``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # the exact GELU, with erf; the tanh form differs by up to 5e-4


class DropPath(nn.Module):
    """Stochastic depth: in training, each sample skips the branch with probability ``p``; the others are scaled up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        return x * x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        return f"p={self.p:.3f}"


Part = Callable[[EncoderConfig], nn.Module]  # makes a part of a layer


class EncoderLayer(nn.Module):
    """Attention, then MLP, each added to the tokens it read: ``[B, N, D]`` to ``[B, N, D]``.

    Args:
        attention, mlp: what makes the two parts, given the config: another kind of either goes in here.
    """

    def __init__(
        self, config: EncoderConfig, drop_path: float = 0.0, attention: Part = Attention, mlp: Part = MLP
    ) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = mlp(config)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.norm_first:
            x = x + self._branch(self.attention(self.norm1(x), attention_mask))
            return x + self._branch(self.mlp(self.norm2(x)))
        x = self.norm1(x + self._branch(self.attention(x, attention_mask)))
        return self.norm2(x + self._branch(self.mlp(x)))

    def _branch(self, x: Tensor) -> Tensor:
        return self.drop_path(self.dropout(x))


class Encoder(Layers):
    """``depth`` layers in a row; arguments as for :class:`EncoderLayer`. A pre-norm encoder wants one more LayerNorm
    behind it, which its user adds. What all layers share is the ``attention_mask`` of :class:`Attention`."""

    def __init__(self, config: EncoderConfig, attention: Part = Attention, mlp: Part = MLP) -> None:
        drop_path = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        super().__init__(EncoderLayer(config, p, attention, mlp) for p in drop_path)


def attention_maps(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Call a model with these arguments, and return the attention weights of all its layers.

    A hook on each :class:`Attention` works out the scores a second time, from what came in: a model that is called
    without this never pays for them.

    Returns:
        ``[depth, B, h, N, N]``; each row sums to one.

    Raises:
        ValueError: an attention was not called, because something that stands round it (a prefix) does its work.
    """
    attentions = {module: name for name, module in model.named_modules() if isinstance(module, Attention)}
    maps: dict[nn.Module, Tensor] = {}

    def record(attention: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        maps[attention] = attention.weights(*args, **kwargs)

    hooks = [attention.register_forward_hook(record, with_kwargs=True) for attention in attentions]
    try:
        model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if unseen := [name for module, name in attentions.items() if module not in maps]:
        raise ValueError(
            f"{unseen[0]} was not called: what stands round it works in its place, with weights of its own. Take the "
            "maps of a model whose attention itself is not tuned"
        )
    return torch.stack([maps[attention] for attention in attentions])


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Give one module its first values, for ``model.apply(initialise)``: weights of ``Linear`` and ``Conv2d`` from a
    truncated normal, biases zero, LayerNorm one and zero.

    ``trunc_normal_`` cuts at -2 and 2, not at two standard deviations: with ``std`` 0.02 this is a normal
    distribution in all but name, here as in timm and transformers.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)

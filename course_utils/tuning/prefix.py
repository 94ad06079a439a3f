"""Prefix tuning: trained keys and values that every layer's attention finds in front of those of the text.

Source: Li and Liang 2021, arXiv:2101.00190.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.encoder import Attention, join_heads, split_heads
from course_utils.tuning.layer import Adapter, Method, TunedLayer, check_count, trained_dtype


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """``l`` keys and ``l`` values for each of ``L`` layers: ``2 L l d`` parameters for a model of width ``d``.

    ``inject(model, Prefix(length=10), "attention", train=["head"])`` tunes any model made of the course's
    :class:`~course_utils.models.encoder.Attention`. No token is added: a prefix has no queries, the MLPs never
    see it, and a text keeps its length and its positions. (peft hands the prefix over as a cache of earlier
    tokens, and BERT then counts positions from ``l``. To have it so, add ``"position_embedding"`` to the targets.)

    Args:
        length: keys and values of each layer, ``l``.
        hidden: units of an MLP that writes them in training, from ``l d`` numbers, for all layers together:
            ``l d + (d + 1) h + (h + 1) 2 L d`` parameters. :func:`~course_utils.tuning.inject.fold` replaces it by
            what it has written. None to train the keys and values themselves.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    length: int = 10
    hidden: int | None = None
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (Attention, nn.Embedding)

    def __post_init__(self) -> None:
        check_count("length", self.length, 10)
        if self.hidden is not None:
            check_count("hidden", self.hidden, 512)

    def adapters(self, bases: Mapping[str, nn.Module]) -> dict[str, Adapter]:
        found: dict[str, Adapter] = {}
        trunk: Trunk | None = None
        if not any(isinstance(base, Attention) for base in bases.values()):
            raise ValueError("a prefix needs an attention to stand in: add attention to the targets")
        for name, base in bases.items():
            if isinstance(base, nn.Embedding):
                found[name] = ShiftedPositions(name, self.length)
            elif self.hidden is None:
                found[name] = KeysAndValues.fresh(base, self.length)
            else:
                owns_trunk = trunk is None
                trunk = trunk or Trunk(self.length, self.hidden, _weights(base)[0])
                found[name] = PrefixEncoder(trunk, base, owns_trunk=owns_trunk)
        return found

    def folded(self) -> Self:
        return replace(self, hidden=None)


class PrefixedAttention(Adapter):
    """Attention over ``l`` trained keys and values and those of the text: ``[B, N, D]`` to ``[B, N, D]``."""

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """The prefix of this layer, ``[l, D]`` each."""
        raise NotImplementedError

    def forward(self, base: nn.Module, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert isinstance(base, Attention)
        keys, values = (rows.to(x.dtype).expand(len(x), -1, -1) for rows in self.keys_and_values())  # [B, l, D]
        q = split_heads(base.q_proj(x), base.head_width)  # [B, h, N, d]
        k = split_heads(torch.cat([keys, base.k_proj(x)], dim=1), base.head_width)  # [B, h, l + N, d]
        v = split_heads(torch.cat([values, base.v_proj(x)], dim=1), base.head_width)
        mask = None if attention_mask is None else F.pad(attention_mask, (keys.shape[1], 0), value=True)[:, None, None]
        dropout = base.dropout if base.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)  # [B, h, N, d]
        return base.out_proj(join_heads(heads))


class KeysAndValues(PrefixedAttention):
    """Keys and values that are parameters themselves."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(rows.detach().clone()) for rows in (keys, values))

    @classmethod
    def fresh(cls, attention: nn.Module, length: int) -> Self:
        """Normal numbers, as large as what the layer's own projections make of normalised inputs."""
        return cls(*(_randn(length, w) * w.norm() / len(w) ** 0.5 for w in _weights(attention)))

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class PrefixEncoder(PrefixedAttention):
    """Keys and values written by an MLP: its first half, the trunk, serves all layers; the second is this layer's."""

    def __init__(self, trunk: Trunk, attention: nn.Module, *, owns_trunk: bool) -> None:
        super().__init__()
        weight = _weights(attention)[0]
        if owns_trunk:
            self.trunk = trunk  # registered once, and so saved, counted and moved once
        self.shared = (trunk,)
        hidden = trunk.linear.out_features
        self.out = nn.Linear(hidden, 2 * len(weight), device=weight.device, dtype=trained_dtype(weight))

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        keys, values = self.out(self.shared[0]()).chunk(2, dim=-1)  # [l, 2 D] -> [l, D] each
        return keys, values

    def folded(self) -> KeysAndValues:
        return KeysAndValues(*self.keys_and_values())


class Trunk(nn.Module):
    """``l`` trained vectors through one ``Linear`` and a tanh: ``[l, h]``. The layers' ``weight`` gives their width."""

    def __init__(self, length: int, hidden: int, weight: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(_randn(length, weight))  # [l, D]
        self.linear = nn.Linear(len(weight), hidden, device=weight.device, dtype=trained_dtype(weight))

    def forward(self) -> Tensor:
        return self.linear(self.embedding).tanh()


class ShiftedPositions(Adapter):
    """A position table that counts from ``l``, as if the prefix stood in front of the text."""

    def __init__(self, name: str, length: int) -> None:
        super().__init__()
        if name.rpartition(".")[2] != "position_embedding":
            raise ValueError(
                f"a prefix cannot wrap {name}: choose attention, and position_embedding to shift positions"
            )
        self.length = length

    def forward(self, base: nn.Module, positions: Tensor) -> Tensor:
        assert isinstance(base, nn.Embedding)
        try:
            return base(positions + self.length)
        except IndexError as error:
            raise ValueError(
                f"{int(positions.max()) + 1} tokens behind a prefix of {self.length} do not fit the "
                f"{base.num_embeddings} positions of this model: shorten one, or leave position_embedding untuned"
            ) from error


def _weights(attention: nn.Module) -> tuple[Tensor, Tensor]:
    """The frozen matrices that make keys and values, ``[D, D]`` each, whatever wraps their layers."""
    assert isinstance(attention, Attention)
    k, v = (layer.base if isinstance(layer, TunedLayer) else layer for layer in (attention.k_proj, attention.v_proj))
    assert isinstance(k, nn.Linear)
    assert isinstance(v, nn.Linear)
    return k.weight.detach(), v.weight.detach()


def _randn(length: int, weight: Tensor) -> Tensor:
    return torch.randn(length, len(weight), device=weight.device, dtype=trained_dtype(weight))

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
from course_utils.tuning.layer import Adapter, Method, TunedLayer
from course_utils.tuning.soft_prompt import check_count


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """``l`` keys and ``l`` values for each of ``L`` layers: ``2 L l d`` parameters for a model of width ``d``.

    ``inject(model, Prefix(length=10), "attention", train=["head"])`` tunes any model made of the course's
    :class:`~course_utils.models.encoder.Attention`. No token is added: nothing asks in the prefix's place, the MLPs
    never see it, and a text keeps its length and its positions. (peft hands the prefix over as a cache of earlier
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
    layers: ClassVar[tuple[type[nn.Module], ...]] = (Attention, nn.Embedding)

    def __post_init__(self) -> None:
        check_count("length", self.length, 10)
        if self.hidden is not None:
            check_count("hidden", self.hidden, 512)

    def adapters(self, bases: Mapping[str, nn.Module]) -> dict[str, Adapter]:
        found: dict[str, Adapter] = {}
        trunk: nn.Module | None = None
        if not any(isinstance(base, Attention) for base in bases.values()):
            raise ValueError("a prefix needs an attention to stand in: add attention to the targets")
        for name, base in bases.items():
            if isinstance(base, nn.Embedding):
                found[name] = ShiftedPositions(name, self.length)
            elif self.hidden is None:
                found[name] = KeysAndValues.fresh(base, self.length)
            else:
                first = trunk is None
                trunk = trunk or _trunk(_projections(base)[0], self.length, self.hidden)
                found[name] = WrittenKeysAndValues(trunk, base, self.hidden, owns_trunk=first)
        return found

    def folded(self) -> Self:
        return replace(self, hidden=None)


class PrefixedAttention(Adapter):
    """Attention over ``l`` trained tokens and the ``N`` of the text: ``[B, N, D]`` to ``[B, N, D]``."""

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
        return cls(*(_randn(linear, length) * linear.weight.detach().norm() / linear.out_features**0.5
                     for linear in _projections(attention)))  # fmt: skip

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class WrittenKeysAndValues(PrefixedAttention):
    """Keys and values written by an MLP: its first half, the trunk, serves all layers; the second is this layer's."""

    def __init__(self, trunk: nn.Module, attention: nn.Module, hidden: int, *, owns_trunk: bool) -> None:
        super().__init__()
        linear = _projections(attention)[0]
        if owns_trunk:
            self.trunk = trunk  # registered once, and so saved, counted and moved once
        self.shared = (trunk,)
        self.out = nn.Linear(hidden, 2 * linear.out_features, device=linear.weight.device, dtype=_dtype(linear))

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        keys, values = self.out(self.shared[0]()).chunk(2, dim=-1)  # [l, 2 D] -> [l, D] each
        return keys, values

    def folded(self) -> KeysAndValues:
        return KeysAndValues(*self.keys_and_values())


class Trunk(nn.Module):
    """``l`` trained vectors through one ``Linear`` and a tanh: ``[l, h]``."""

    def __init__(self, seed: Tensor, hidden: int) -> None:
        super().__init__()
        self.seed = nn.Parameter(seed)  # [l, D]
        self.linear = nn.Linear(seed.shape[1], hidden, device=seed.device, dtype=seed.dtype)

    def forward(self) -> Tensor:
        return self.linear(self.seed).tanh()


class ShiftedPositions(Adapter):
    """A position table that counts from ``l``, as if the prefix stood in front of the text."""

    def __init__(self, name: str, length: int) -> None:
        super().__init__()
        if name.rpartition(".")[2] != "position_embedding":
            raise ValueError(
                f"a prefix cannot be put round {name}: choose attention, and position_embedding to shift positions"
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


def _projections(attention: nn.Module) -> list[nn.Linear]:
    """The bare layers that make keys and values."""
    assert isinstance(attention, Attention)
    linears = []
    for layer in (attention.k_proj, attention.v_proj):
        linear = layer.base if isinstance(layer, TunedLayer) else layer
        assert isinstance(linear, nn.Linear)
        linears.append(linear)
    return linears


def _dtype(linear: nn.Linear) -> torch.dtype:
    return torch.promote_types(linear.weight.dtype, torch.float32)  # in 16 bits small updates would be rounded away


def _randn(linear: nn.Linear, length: int) -> Tensor:
    return torch.randn(length, linear.out_features, device=linear.weight.device, dtype=_dtype(linear))


def _trunk(linear: nn.Linear, length: int, hidden: int) -> Trunk:
    return Trunk(torch.randn(length, linear.in_features, device=linear.weight.device, dtype=_dtype(linear)), hidden)

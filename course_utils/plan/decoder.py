"""A decoder on paper: the sizes that decide its parameters, its FLOPs and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from course_utils.plan import layer as parts
from course_utils.plan.config import sizes
from course_utils.plan.layer import Experts, Kept, Latent, Layer

Positions = Literal["learned", "alibi", "rotary"]
Norm = Literal["layer", "rms"]
Biases = Literal["all", "qkv", "none"]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes of a pre-norm decoder. The defaults are GPT's; what came later stands from ``kv_heads`` on.

    Args:
        vocab: rows of the token table as trained, so with the rows that pad it.
        length: tokens of a sequence in training, ``s``; with ``positions="learned"`` also rows of the position table.
        positions: ``"learned"`` (GPT); ``"alibi"`` (BLOOM) and ``"rotary"`` have no parameters.
        embedding_norm: whether a norm follows the embedding (BLOOM).
        tied: whether the head shares the token table.
        kv_heads: heads of keys and values, by default as many as of queries.
        head_width: numbers of a head, by default width / heads.
        mlp_width: hidden width of the MLP, by default four times the width.
        gated: whether the MLP has a gate, so three matrices.
        norm: ``"layer"`` with a bias, or ``"rms"`` without.
        biases: of all matrices, of queries, keys and values alone (Qwen2), or of none.
        qk_norm: whether queries and keys are normalised, head by head (Qwen3).
        experts: a mixture in place of the MLP.
        latent: latent attention in place of grouped queries.

    Raises:
        ValueError: for a width that does not divide into the heads, heads that do not divide into groups, or a size
            below 1.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocab: int
    length: int
    positions: Positions = "learned"
    embedding_norm: bool = False
    tied: bool = True
    kv_heads: int | None = None
    head_width: int | None = None
    mlp_width: int | None = None
    gated: bool = False
    norm: Norm = "layer"
    biases: Biases = "all"
    qk_norm: bool = False
    experts: Experts | None = None
    latent: Latent | None = None

    def __post_init__(self) -> None:
        for field in ("layers", "width", "heads", "vocab", "length", "kv_heads", "head_width", "mlp_width"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise ValueError(f"{field} {value!r} of {self.name} is no count: choose a whole number of at least 1")
        if self.head_width is None and self.latent is None and self.width % self.heads:
            raise ValueError(
                f"width {self.width} of {self.name} cannot be split over {self.heads} heads: choose a multiple"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"{self.heads} heads of {self.name} cannot share {self.kv_heads} heads of keys and values: "
                "choose a divisor"
            )
        if (e := self.experts) and not 1 <= e.active <= e.number:
            raise ValueError(f"a token of {self.name} cannot pass through {e.active} of {e.number} experts")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path, **changes: Any) -> Self:
        """The sizes in a ``config.json`` of transformers; see :func:`course_utils.plan.config.sizes`."""
        return cls(**{**sizes(config), **changes})

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp_width or 4 * self.width

    @cached_property
    def _kinds(self) -> tuple[Layer, Layer]:
        if self.latent:
            attention = parts.latent(self.width, self.heads, self.latent)
        else:
            each, groups = self.head_width or self.width // self.heads, self.key_value_heads
            attention = parts.grouped(self.width, self.heads, groups, each, biases=self.biases, qk_norm=self.qk_norm)
        around = (
            Kept(self.width, "input", "norms"),
            Kept(self.width, "product", "norms"),  # the sum behind attention, which the second norm reads
            Kept(2 * self.width, "pointwise", "norms"),  # what both norms return
            Kept(2 * self.width, "mask", "norms"),
        )

        def layer(mlp: tuple[tuple[parts.Matrix, ...], tuple[Kept, ...]], further: int = 0) -> Layer:
            matrices, kept = mlp
            return Layer(
                matrices=attention.matrices + matrices,
                norms=(self.width, self.width, *attention.norms),
                kept=around + attention.kept + kept,
                key=attention.key,
                value=attention.value,
                key_value=attention.key_value,
                further=further,
            )

        dense = layer(parts.mlp(self.width, self.hidden, gated=self.gated, bias=self.biases == "all"))
        if not (e := self.experts):
            return dense, dense
        return dense, layer(parts.mixture(self.width, e), further=e.correction * e.number)

    @property
    def dense_layers(self) -> int:
        """First layers that have no experts, where the others have."""
        return min(self.layers, self.experts.dense_layers) if self.experts else 0

    def layer(self, number: int = -1) -> Layer:
        """What layer ``number`` is made of; by default the last, as which most are."""
        return self._kinds[range(self.layers)[number] >= self.dense_layers]

    @property
    def kinds(self) -> list[tuple[Layer, int]]:
        """What the layers are made of, and how many are of each kind."""
        return self.kinds_of(range(self.layers))

    def kinds_of(self, numbers: Sequence[int]) -> list[tuple[Layer, int]]:
        """The same of the layers with these numbers."""
        dense = sum(number < self.dense_layers for number in numbers)
        counts = zip(self._kinds, (dense, len(numbers) - dense), strict=True)
        return [(kind, count) for kind, count in counts if count]

    @property
    def norm_numbers(self) -> int:
        """Parameters of a norm for each number of its width."""
        return 2 if self.norm == "layer" else 1

    @property
    def layer_parameters(self) -> int:
        """Of the last layer; GPT's have 12 h^2 + 13 h: attention 4 h^2 + 4 h, MLP 8 h^2 + 5 h, two norms 4 h."""
        return self.layer().parameters(self.norm_numbers)

    @property
    def embedding_parameters(self) -> int:
        """Token table, position table, norm behind them: what the first pipeline stage holds besides layers."""
        rows = self.vocab + (self.length if self.positions == "learned" else 0)
        return (rows + self.norm_numbers * self.embedding_norm) * self.width

    @property
    def head_parameters(self) -> int:
        """The last norm, and the head if it has a table of its own."""
        return (self.norm_numbers + (0 if self.tied else self.vocab)) * self.width

    @property
    def parameters(self) -> int:
        """``N``, all of them; BLOOM-176B has 176,247,271,424."""
        return self._parameters()

    @property
    def active_parameters(self) -> int:
        """Those that one token meets; as many as there are where there are no experts."""
        return self._parameters(active=True)

    def _parameters(self, *, active: bool = False) -> int:
        layers = sum(count * kind.parameters(self.norm_numbers, active=active) for kind, count in self.kinds)
        return layers + self.embedding_parameters + self.head_parameters

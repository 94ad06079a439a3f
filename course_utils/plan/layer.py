"""What a layer of a decoder is made of, on paper: its matrices and norms, and what autograd keeps of each.

A layer is a list of parts. Parameters, FLOPs, the share of a tensor-parallel rank, activations and adapters are sums
over this list, so a new kind of layer is a new list and no new formula.

Sources: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245 (grouped queries); Shazeer 2020,
arXiv:2002.05202 (gated MLP); DeepSeek-AI 2024, arXiv:2412.19437, section 2.1 (latent attention, shared experts);
Shoeybi et al. 2019, arXiv:1909.08053 (what is cut by columns, and what by rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Cut = Literal["columns", "rows", "not"]
Origin = Literal["input", "product", "pointwise", "mask"]
Region = Literal["norms", "products"]


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP.

    Args:
        number: of them, beside those that every token passes.
        active: through how many of these one token passes.
        width: hidden width of one.
        shared: experts of the same width that every token passes.
        dense_layers: first layers that have an MLP instead.
        correction: whether the router adds a bias of its own to each expert's score (DeepSeek-V3).
    """

    number: int
    active: int
    width: int
    shared: int = 0
    dense_layers: int = 0
    correction: bool = False


@dataclass(frozen=True)
class Latent:
    """DeepSeek's latent attention: queries, and keys with values, go through a narrow vector with a norm of its own.

    Args:
        query_rank, key_value_rank: widths of the two narrow vectors.
        rotary: numbers of a head's query and key that carry the position; the key's are shared by all heads.
        plain: numbers of a head's query and key that do not.
        value: numbers of a head's value.
    """

    query_rank: int
    key_value_rank: int
    rotary: int
    plain: int
    value: int


@dataclass(frozen=True)
class Matrix:
    """A linear map and how it is divided.

    Args:
        part: what it is for: qkv, out, mlp or router.
        pieces: ranks that it can be cut over at most; with more, several hold the same piece (few key-value heads).
        copies: how many there are, one for each expert.
        active: through how many of the copies one token passes.
    """

    part: str
    inputs: int
    outputs: int
    bias: bool = False
    cut: Cut = "not"
    pieces: int = 1 << 30
    copies: int = 1
    active: int = 1

    @property
    def expert(self) -> bool:
        """Whether it belongs to an expert, so that the expert axis divides its copies."""
        return self.copies > 1

    @property
    def parameters(self) -> int:
        """Of one copy."""
        return self.inputs * self.outputs + self.bias * self.outputs

    @property
    def divided(self) -> int:
        """Parameters of one copy that the tensor axis divides. The bias behind a sum stands on every rank."""
        return {"columns": self.parameters, "rows": self.inputs * self.outputs, "not": 0}[self.cut]


class Kept(NamedTuple):
    """A tensor that autograd keeps of a layer, in numbers for each token.

    ``origin`` says what made it. ``pieces`` says over how many tensor-parallel ranks it can be divided.
    """

    numbers: float
    origin: Origin
    region: Region
    pieces: int = 1 << 30


@dataclass(frozen=True)
class Layer:
    """Matrices, widths of the norms, and what autograd keeps beside the attention weights.

    Args:
        norms: the width of each.
        further: parameters that are neither, on every rank.
        kept: see :class:`Kept`.
        key, value: numbers of a head's key and value.
        key_value: numbers of a token's keys and values together, which ring attention passes on.
    """

    matrices: tuple[Matrix, ...]
    norms: tuple[int, ...]
    kept: tuple[Kept, ...]
    key: int
    value: int
    key_value: int
    further: int = 0

    @property
    def mixed(self) -> bool:
        """Whether it has experts."""
        return any(matrix.expert for matrix in self.matrices)

    def parameters(self, norm: int, *, active: bool = False) -> int:
        """All of them, or those that one token meets; ``norm`` numbers for each number of a norm's width."""
        matrices = sum((m.active if active else m.copies) * m.parameters for m in self.matrices)
        return matrices + norm * sum(self.norms) + self.further

    def share(self, norm: int, *, tensor: int = 1, expert: int = 1) -> tuple[int, int]:
        """Parameters on one rank: outside of the experts, and of the experts.

        What is divided is added up by the number of pieces before it is divided, and the largest part is counted.
        """
        held = {False: norm * sum(self.norms) + self.further, True: 0}
        divided: dict[tuple[bool, int], int] = {}
        for matrix in self.matrices:
            copies = -(-matrix.copies // expert) if matrix.expert else 1
            held[matrix.expert] += copies * (matrix.parameters - matrix.divided)
            ranks = min(tensor, matrix.pieces)
            divided[matrix.expert, ranks] = divided.get((matrix.expert, ranks), 0) + copies * matrix.divided
        for (expert_part, ranks), count in divided.items():
            held[expert_part] += -(-count // ranks)
        return held[False], held[True]


@dataclass(frozen=True)
class Attention:
    """Attention's part of a layer; see :class:`Layer` for the fields."""

    matrices: tuple[Matrix, ...]
    norms: tuple[int, ...]
    kept: tuple[Kept, ...]
    key: int
    value: int
    key_value: int


def grouped(width: int, heads: int, kv_heads: int, head: int, *, biases: str, qk_norm: bool) -> Attention:
    """Queries of ``heads``, keys and values of ``kv_heads``, ``head`` numbers each."""
    bias, queries, keys = biases != "none", heads * head, kv_heads * head
    matrices = (
        Matrix("qkv", width, queries, bias, "columns", heads),
        Matrix("qkv", width, keys, bias, "columns", kv_heads),
        Matrix("qkv", width, keys, bias, "columns", kv_heads),
        Matrix("out", queries, width, biases == "all", "rows", heads),
    )
    kept = [Kept(queries, "product", "products", heads), Kept(2 * keys, "product", "products", kv_heads)]
    kept += [Kept(queries, "product", "products", heads)]  # attended values: what the kernel returns, and out reads
    if qk_norm:  # the norms keep what they read; attention keeps what they return
        kept += [Kept(queries, "pointwise", "products", heads), Kept(keys, "pointwise", "products", kv_heads)]
    return Attention(matrices, (head, head) if qk_norm else (), tuple(kept), head, head, 2 * keys)


def latent(width: int, heads: int, sizes: Latent) -> Attention:
    """Latent attention. The maps into the narrow vectors and their norms stand whole on every tensor-parallel rank."""
    key = sizes.plain + sizes.rotary
    queries, keys_values = heads * key, heads * (sizes.plain + sizes.value)
    matrices = (
        Matrix("qkv", width, sizes.query_rank),
        Matrix("qkv", sizes.query_rank, queries, cut="columns", pieces=heads),
        Matrix("qkv", width, sizes.key_value_rank + sizes.rotary),
        Matrix("qkv", sizes.key_value_rank, keys_values, cut="columns", pieces=heads),
        Matrix("out", heads * sizes.value, width, cut="rows", pieces=heads),
    )
    narrow = sizes.query_rank + sizes.key_value_rank
    kept = (
        Kept(narrow, "product", "norms"),  # what the two norms read
        Kept(narrow, "pointwise", "norms"),  # and return
        Kept(2 * queries + heads * sizes.value, "product", "products", heads),  # queries, keys, values
        Kept(heads * sizes.value, "product", "products", heads),  # attended values
    )
    norms = (sizes.query_rank, sizes.key_value_rank)
    return Attention(matrices, norms, kept, key, sizes.value, queries + heads * sizes.value)


def mlp(width: int, hidden: int, *, gated: bool, bias: bool) -> tuple[tuple[Matrix, ...], tuple[Kept, ...]]:
    """Two matrices and GELU, or three and SiLU: gate, what SiLU makes of it, up, and the product of the last two."""
    up = Matrix("mlp", width, hidden, bias, "columns")
    down = Matrix("mlp", hidden, width, bias, "rows")
    hidden_kept = (
        Kept((1 + gated) * hidden, "product", "products"),
        Kept((1 + gated) * hidden, "pointwise", "products"),
    )
    return (*(up,) * (1 + gated), down), hidden_kept


def mixture(width: int, experts: Experts) -> tuple[tuple[Matrix, ...], tuple[Kept, ...]]:
    """Router, experts and shared experts. Each token is copied to its experts; their outputs are kept to be weighed."""
    size, active = experts.width, experts.active
    up = Matrix("mlp", width, size, cut="columns", copies=experts.number, active=active)
    down = Matrix("mlp", size, width, cut="rows", copies=experts.number, active=active)
    matrices = [Matrix("router", width, experts.number), up, up, down]
    kept = [
        Kept(2 * experts.number, "pointwise", "norms"),  # scores, and what softmax or sigmoid makes of them
        Kept(active * width, "pointwise", "norms"),  # the copies that go in
        Kept(2 * active * size, "product", "products"),
        Kept(2 * active * size, "pointwise", "products"),
        Kept(active * width, "product", "norms"),  # what comes out
    ]
    if experts.shared:
        further, more = mlp(width, experts.shared * size, gated=True, bias=False)
        matrices += further
        kept += more
    return tuple(matrices), tuple(kept)

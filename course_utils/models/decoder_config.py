"""What decides a decoder: its sizes and options, checked when they are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from course_utils.models.encoder import check_counts
from course_utils.models.rotary import Rope

LLAMA_3_1 = Rope(theta=500_000.0, scaling="llama3", factor=8.0, trained_length=8192)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that decides what a :class:`~course_utils.models.decoder.Decoder` computes. Immutable and checked when
    it is made. The default sizes are those of Llama 3.1 8B.

    Args:
        vocab_size: rows of the token table; token ids run from 0 to ``vocab_size - 1``.
        width: numbers per token, ``D``.
        depth: layers.
        heads: query heads per layer, ``h``.
        kv_heads: heads of keys and values; each is shared by ``h / kv_heads`` queries (grouped-query attention).
        head_width: numbers per head, ``d``; ``heads * head_width`` need not be ``width``.
        mlp_width: hidden units of the gated MLP.
        max_length: the longest text, in tokens.
        rope: the rotary positions.
        norm_eps: added to the mean square by RMSNorm.
        qkv_bias, out_bias, mlp_bias: which ``Linear`` layers have a bias (Qwen2: queries, keys and values).
        qk_norm: whether queries and keys are normalised, head by head (Qwen3).
        sliding_window: how many tokens, itself included, a token sees; None for all before it (Mistral 7B v0.1: 4096).
        tied: whether the head is the token table itself.
        dropout: probability that a number is dropped behind the embedding and behind each attention and MLP.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    vocab_size: int = 128256
    width: int = 4096
    depth: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    mlp_width: int = 14336
    max_length: int = 131072
    rope: Rope = field(default=LLAMA_3_1)
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    tied: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "width", "depth", "heads", "kv_heads", "head_width", "mlp_width", "max_length")
        if self.heads % self.kv_heads:
            fit = ", ".join(str(n) for n in range(1, self.heads + 1) if self.heads % n == 0)
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} heads of keys and values evenly: choose kv_heads "
                f"among {fit}"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width {self.head_width} is odd, and positions turn numbers in pairs: make it even")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window {self.sliding_window!r} lets no token see itself: choose 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout!r} is no probability: choose a number from 0 (off) to below 1")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps {self.norm_eps!r} must be above 0: choose 1e-5 (Llama) or 1e-6 (Qwen)")

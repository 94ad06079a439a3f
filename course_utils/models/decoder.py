"""The decoder of today's language models: each token sees those before it, and the model guesses the next.

Beside the encoder of :mod:`course_utils.models.encoder` it has a causal mask, positions that turn queries and keys
instead of being added, fewer heads of keys and values than of queries, a norm without mean and bias, and an MLP with a
gate. Llama, Mistral, Qwen2 and Qwen3 are this model; :mod:`course_utils.models.decoder_files` reads and writes them.

Letters used for shapes: ``B`` texts, ``N`` tokens, ``M`` tokens that can be seen (with a cache, also earlier ones),
``D`` width, ``h`` query heads, ``k`` heads of keys and values, ``d`` width of a head, ``V`` words.

Sources: Radford et al. 2018 (GPT); Shazeer 2019, arXiv:1911.02150, and Ainslie et al. 2023, arXiv:2305.13245 (shared
keys and values); Zhang and Sennrich 2019, arXiv:1910.07467 (RMSNorm); Shazeer 2020, arXiv:2002.05202 (SwiGLU); Touvron
et al. 2023, arXiv:2302.13971 (Llama); Jiang et al. 2023, arXiv:2310.06825 (sliding window).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.encoder import join_heads, split_heads
from course_utils.models.layers import Layers
from course_utils.models.rotary import rotate, rotations


class Cache:
    """The keys and values of the tokens that a decoder has read, so that the next token need not read them again."""

    def __init__(self) -> None:
        self._held: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # by attention, [B, k, M, d] each

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return next(iter(self._held.values()))[0].shape[2] if self._held else 0

    def extend(self, attention: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens ``[B, k, N, d]``; returns those of all tokens ``[B, k, M, d]``."""
        if attention in self._held:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self._held[attention], (k, v), strict=True))
        self._held[attention] = (k, v)
        return k, v


@dataclass(frozen=True)
class Context:
    """What all layers of a forward pass are given besides the tokens.

    Attributes:
        cos, sin: ``[B or 1, 1, N, d/2]``, how far the tokens' queries and keys are turned.
        mask: ``[B or 1, 1, N, M]`` bool, True where a token may look; None for all before it and itself.
        cache: of the tokens read before.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None = None
    cache: Cache | None = None


class CausalAttention(nn.Module):
    """Each token takes a weighted mean of the values of the tokens that it may see: ``[B, N, D]`` to ``[B, N, D]``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        queries, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.q_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.out_proj = nn.Linear(queries, config.width, bias=config.out_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = (split_heads(linear(x), self.head_width) for linear in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q), context.cos, context.sin)  # [B, h, N, d]
        k = rotate(self.k_norm(k), context.cos, context.sin)  # [B, k, N, d]
        if context.cache is not None:
            k, v = context.cache.extend(self, k, v)
        causal, grouped = context.mask is None, q.shape[1] != k.shape[1]
        heads = F.scaled_dot_product_attention(q, k, v, context.mask, is_causal=causal, enable_gqa=grouped)
        return self.out_proj(join_heads(heads))


class GatedMLP(nn.Module):
    """SwiGLU: one product, gated by SiLU of another, applied to each token alone: ``[B, N, D]`` to ``[B, N, D]``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.up = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nn.Module):
    """Attention, then MLP, each added to the tokens it read: ``[B, N, D]`` to ``[B, N, D]``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = CausalAttention(config)
        self.norm2 = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = GatedMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), context))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Decoder(nn.Module):
    """Token ids in; embedding; layers; RMSNorm; a logit for each word out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = Layers(DecoderLayer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.initialise()
        if config.tied:
            self.head.weight = self.word_embedding.weight

    def initialise(self, std: float = 0.02) -> None:
        """Give all weights their first values: a normal distribution, biases zero. What is added to the tokens, twice
        a layer, starts smaller by ``sqrt(2 depth)``, so that their sum does not grow with the depth (as in GPT-2)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                added = name.endswith(("out_proj", "mlp.down"))
                nn.init.normal_(module.weight, std=std / (2 * self.config.depth) ** 0.5 if added else std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Guess the word that follows each token.

        Args:
            input_ids: ``[B, N]`` integers, the tokens.
            attention_mask: ``[B, M]``, True or 1 where a token is real, False or 0 where it is padding, on whichever
                side; with a cache, of the tokens in it too. What is put out for padding means nothing.
            positions: ``[N]`` or ``[B, N]`` integers; by default real tokens are counted from 0, in each document.
            documents: ``[B, N]`` integers, the document to which each token belongs, in rows where several lie end to
                end: no token sees another document's.
            cache: of the tokens before these; these are added to it.

        Returns:
            logits ``[B, N, V]``.

        Raises:
            ValueError: shapes that do not fit, ids beyond the vocabulary, a text longer than ``max_length`` or empty.
        """
        x = self.embed(input_ids)
        context = self.context(x, attention_mask, positions=positions, documents=documents, cache=cache)
        return self.forward_head(self.decoder(x, context))

    def embed(self, input_ids: Tensor) -> Tensor:
        """The tokens that enter the layers, ``[B, N]`` to ``[B, N, D]``."""
        if input_ids.dim() != 2 or input_ids.is_floating_point() or not input_ids.shape[1]:
            raise ValueError(
                f"input_ids of {input_ids.dtype} and shape {list(input_ids.shape)} do not fit: give integers of shape "
                "[texts, tokens], one token or more"
            )
        try:
            return self.dropout(self.word_embedding(input_ids))
        except IndexError as error:
            raise ValueError(
                f"input_ids run from {int(input_ids.min())} to {int(input_ids.max())}, but vocab_size is "
                f"{self.config.vocab_size}: use the tokenizer that belongs to this model"
            ) from error

    def context(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Context:
        """What all layers are given; arguments as for :meth:`forward`, but for the tokens ``[B, N, D]``."""
        batch, new, _ = x.shape
        before = 0 if cache is None else cache.length
        seen = before + new
        if seen > self.config.max_length:
            raise ValueError(
                f"a text of {seen} tokens does not fit a model for 1 to {self.config.max_length}: cut it into parts"
            )
        if attention_mask is not None and attention_mask.shape != (batch, seen):
            raise ValueError(
                f"attention_mask of shape {list(attention_mask.shape)} does not fit: give one of {[batch, seen]}, 1 "
                "for each real token and 0 for padding"
            )
        if documents is not None and (before or documents.shape != (batch, new)):
            raise ValueError(
                f"documents of shape {list(documents.shape)} after {before} tokens of a cache do not fit: give "
                f"{[batch, new]}, and whole rows, without a cache"
            )
        places = torch.arange(seen, device=x.device)
        if positions is None:
            positions = _positions(places, attention_mask, documents)[..., before:]
        cos, sin = rotations(positions, self.config.rope, self.config.head_width, x.dtype)
        if positions.dim() == 1:
            cos, sin = cos[None], sin[None]
        mask = self._mask(places, before, attention_mask, documents)
        return Context(cos[:, None], sin[:, None], mask, cache)

    def _mask(
        self, places: Tensor, before: int, attention_mask: Tensor | None, documents: Tensor | None
    ) -> Tensor | None:
        """``[B or 1, 1, N, M]``: a token sees what stands before it, near enough, is real, and of its document."""
        window = self.config.sliding_window
        if not before and attention_mask is None and documents is None and (window is None or window >= len(places)):
            return None
        distance = places[before:, None] - places  # [N, M]
        mask = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        mask = mask[None]
        if attention_mask is not None:
            # Padding sees itself, so that no row of weights is empty; what it computes, nobody reads.
            mask = (mask & attention_mask[:, None].bool()) | (distance == 0)
        if documents is not None:
            mask = mask & (documents[:, :, None] == documents[:, None])
        return mask[:, None]

    def forward_head(self, x: Tensor) -> Tensor:
        """What follows the layers: ``[B, N, D]`` to logits ``[B, N, V]``."""
        return self.head(self.norm(x))


def _positions(places: Tensor, attention_mask: Tensor | None, documents: Tensor | None) -> Tensor:
    """``[M]`` or ``[B, M]``: real tokens counted from 0, anew in each document."""
    if documents is not None:
        first = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)  # of its document
        return places - torch.where(first, places, 0).cummax(dim=1).values
    if attention_mask is not None:
        return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return places

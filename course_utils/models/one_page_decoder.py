"""A language model of today on one page: Llama, Mistral and Qwen are this, with other sizes.

Each token sees those before it and guesses the next. ``rotate`` turns queries and keys by their place in the text.
``Attention`` has fewer heads of keys and values than of queries. ``Layer`` adds a gated network that works on each
token alone.

Shapes: B texts, N tokens, D width, V words, h heads of d numbers for queries, k of them for keys and values. Sources:
Su et al. 2021, arXiv:2104.09864 (rotary positions); Touvron et al. 2023, arXiv:2302.13971 (Llama).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def rotate(x: Tensor, theta: float) -> Tensor:  # [B, h, N, d]
    places, half = torch.arange(x.shape[2]), x.shape[3] // 2
    angles = places[:, None] * theta ** -(torch.arange(half) / half)  # [N, d/2], smaller from pair to pair
    first, second = x[..., :half], x[..., half:]  # the two numbers of each pair
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # each token is divided by the root of its mean square
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, theta: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.theta = heads, kv_heads, theta
        self.q_proj = nn.Linear(width, heads * head_width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.out_proj = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, N, D]
        q = rotate(rearrange(self.q_proj(x), "b n (h d) -> b h n d", h=self.heads), self.theta)
        k = rotate(rearrange(self.k_proj(x), "b n (k d) -> b k n d", k=self.kv_heads), self.theta)
        v = rearrange(self.v_proj(x), "b n (k d) -> b k n d", k=self.kv_heads)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))  # one for h/k queries
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, h, N, N]
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal=1)  # [N, N], above the diagonal
        means = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ v  # [B, h, N, d]
        return self.out_proj(rearrange(means, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, hidden: int, theta: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attention, self.mlp = Attention(width, heads, kv_heads, head_width, theta), MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:  # [B, N, D], and what comes out is added to what came in
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    def __init__(
        self, vocab: int, width: int, depth: int, heads: int, kv_heads: int, hidden: int, theta: float
    ) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(vocab, width)
        self.layers = nn.Sequential(
            *(Layer(width, heads, kv_heads, width // heads, hidden, theta) for _ in range(depth))
        )
        self.norm, self.head = RMSNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:  # [B, N] to a logit for each word, [B, N, V]
        return self.head(self.norm(self.layers(self.word_embedding(ids))))

"""The Vision Transformer on one page: an image cut into patches, each patch a token, each token attends to all of them.

``Attention`` lets the tokens exchange. ``Layer`` adds a small network that works on each token alone. ``ViT`` makes
tokens of an image, sends them through its layers, and reads the answer off the first of them.

Shapes: B images, C channels, H x W pixels, patches of p x p pixels, P patches, N = P + 1 tokens, D width, h heads,
d = D / h numbers of a head. Source: Dosovitskiy et al. 2021, arXiv:2010.11929; Vaswani et al. 2017, arXiv:1706.03762.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, N, D]
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # queries, keys, values: [B, N, D] each
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in projected)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, h, N, N], each query with each key
        means = scores.softmax(dim=-1) @ v  # [B, h, N, d]: each row of weights sums to one
        return self.out_proj(rearrange(means, "b h n d -> b n (h d)"))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, N, D], and what comes out is added to what came in
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(
        self, image: int, patch: int, channels: int, width: int, depth: int, heads: int, hidden: int, classes: int
    ) -> None:
        super().__init__()
        self.patch = patch
        self.patch_embedding = nn.Linear(channels * patch * patch, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(Layer(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W]
        p = self.patch
        patches = rearrange(images, "b c (row p) (column q) -> b (row column) (c p q)", p=p, q=p)  # [B, P, C p p]
        class_token = self.class_token.expand(len(images), -1, -1)  # [B, 1, D], the same for every image
        x = torch.cat([class_token, self.patch_embedding(patches)], dim=1) + self.positions  # [B, N, D]
        return self.head(self.norm(self.layers(x)[:, 0]))  # the class token alone is read: [B, classes]

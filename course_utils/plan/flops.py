"""Multiplications of a Transformer, part by part, in closed form.

One multiply-accumulate (MAC) is a product and a sum: two floating-point operations. The "17.6 GFLOPs" that papers give
for ViT-B/16 are MACs, so its forward pass costs 35.1 GFLOP. Counted are matrix products only, as in those papers:
LayerNorm, GELU, biases (N D per layer) and softmax (h N^2) are less than a hundredth.

``N`` tokens, ``M`` tokens that ask, ``D`` width, ``F`` hidden width of the MLP. All counts are for one sequence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_utils.models.vit_config import ViTConfig

FLOPS_PER_MAC = 2


def linear_macs(rows: int, inputs: int, outputs: int) -> int:
    """``[rows, inputs] @ [inputs, outputs]``: one MAC for each row, input and output."""
    return rows * inputs * outputs


def layer_macs(tokens: int, width: int, mlp_width: int, asking: int | None = None) -> dict[str, int]:
    """MACs of one encoder layer, by part, for one sequence.

    Args:
        tokens: ``N``, all tokens of the sequence.
        asking: ``M``, the tokens worked out; by default all. Keys and values are always needed of all.

    Returns:
        qkv: queries of M, keys and values of N tokens, ``[., D] @ [D, D]`` each;
        scores: ``[M, d] @ [d, N]`` and ``[M, N] @ [N, d]`` for each of D/d heads, so 2 M N D whatever the heads are;
        out: ``[M, D] @ [D, D]``;
        mlp: ``[M, D] @ [D, F]`` and ``[M, F] @ [F, D]``.
    """
    m = tokens if asking is None else asking
    return {
        "qkv": linear_macs(m, width, width) + 2 * linear_macs(tokens, width, width),
        "scores": 2 * linear_macs(m, width, tokens),
        "out": linear_macs(m, width, width),
        "mlp": 2 * linear_macs(m, width, mlp_width),
    }


def vit_macs(config: ViTConfig) -> dict[str, int]:
    """MACs of one image through a ViT, by part: patch, qkv, scores, out, mlp, head. Their sum is the whole.

    ViT-B/16 at 224 pixels: 17.56 G, at 384: 55.48 G (with ``skip_unread=False``, as the papers count).
    """
    tokens = config.prefix + config.patches
    parts = {"patch": linear_macs(config.patches, config.channels * math.prod(_patch(config)), config.width)}
    for layer in range(config.depth):
        last_reads_one = layer == config.depth - 1 and config.skip_unread and config.pool == "cls"
        for part, macs in layer_macs(tokens, config.width, config.mlp_width, 1 if last_reads_one else None).items():
            parts[part] = parts.get(part, 0) + macs
    parts["head"] = linear_macs(1, config.width, config.num_classes)
    return parts


def vit_parameters(config: ViTConfig) -> dict[str, int]:
    """Parameters of a ViT, by part: patch, tokens, positions, qkv, out, mlp, norms, head. Their sum is the whole.

    ViT-B/16 with 1000 classes: 86,567,656; at 384 pixels 86,859,496, for its longer position table.
    """
    width, hidden = config.width, config.mlp_width
    return {
        "patch": config.channels * math.prod(_patch(config)) * width + width,
        "tokens": (config.prefix + config.mask_token) * width,
        "positions": config.position_rows * width,
        "qkv": config.depth * 3 * (width * width + config.qkv_bias * width),
        "out": config.depth * (width * width + width),
        "mlp": config.depth * (2 * width * hidden + hidden + width),
        "norms": (2 * config.depth + 1) * 2 * width,
        "head": config.num_classes * (width + 1),
    }


def _patch(config: ViTConfig) -> tuple[int, int]:
    return config.patch_size if isinstance(config.patch_size, tuple) else (config.patch_size, config.patch_size)

"""Multiplications of a Transformer, part by part, in closed form.

One multiply-accumulate (MAC) is a product and a sum: two floating-point operations. The "17.6 GFLOPs" that papers give
for ViT-B/16 are MACs, so its forward pass costs 35.1 GFLOP. Counted are matrix products only, as in those papers:
LayerNorm, GELU, biases (N D per layer) and softmax (h N^2) are less than a hundredth.

``N`` tokens, ``D`` width, ``F`` hidden width of the MLP. All counts are for one sequence.
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


def layer_macs(tokens: int, width: int, mlp_width: int) -> dict[str, int]:
    """MACs of one encoder layer, by part, for one sequence of ``N`` tokens.

    Returns:
        qkv: queries, keys and values, ``[N, D] @ [D, D]`` each;
        scores: ``[N, d] @ [d, N]`` and ``[N, N] @ [N, d]`` for each of D/d heads, so 2 N N D whatever the heads are;
        out: ``[N, D] @ [D, D]``;
        mlp: ``[N, D] @ [D, F]`` and ``[N, F] @ [F, D]``.
    """
    return {
        "qkv": 3 * linear_macs(tokens, width, width),
        "scores": 2 * linear_macs(tokens, width, tokens),
        "out": linear_macs(tokens, width, width),
        "mlp": 2 * linear_macs(tokens, width, mlp_width),
    }


def vit_macs(config: ViTConfig) -> dict[str, int]:
    """MACs of one image through a ViT, by part: patch, qkv, scores, out, mlp, head. Their sum is the whole.

    ViT-B/16 at 224 pixels: 17.56 G, at 384: 55.48 G, as the papers count.
    """
    tokens = config.prefix + config.patches
    parts = {"patch": linear_macs(config.patches, config.channels * math.prod(_patch(config)), config.width)}
    for part, macs in layer_macs(tokens, config.width, config.mlp_width).items():
        parts[part] = config.depth * macs
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

"""The answers of the figure ``patch_grid``: what a Vision Transformer costs, by its size, its image and its patch."""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.models import ViTConfig
from course_utils.plan.flops import vit_macs, vit_parameters

MODELS = {"ViT-Ti": "tiny16", "ViT-S": "small16", "ViT-B": "base16", "ViT-L": "large16"}
IMAGES = (28, 32, 64, 96, 112, 160, 192, 224, 256, 288, 320, 384, 448, 512, 768, 1024)  # pixels of a side
PATCHES = (4, 7, 8, 14, 16, 32)
PARTS = {
    "patch": "patch embedding",
    "qkv": "queries, keys, values",
    "scores": "scores and their mean",
    "out": "output projection",
    "mlp": "MLP",
    "head": "head",
}


def answers() -> dict[str, Any]:
    """``costs`` with 1000 classes: patches of a side, tokens, parameters, MACs, bytes of the scores of all layers, and
    the share of each of the ``parts`` in the MACs, in per cent. Sizes that do not fit have the model's own sentence."""
    return {"parts": PARTS, "costs": tabulate(_costs, model=MODELS, image=IMAGES, patch=PATCHES)}


def _costs(model: str, image: int, patch: int) -> dict[str, Any]:
    config = ViTConfig.preset(MODELS[model], image_size=image, patch_size=patch)
    macs, tokens = vit_macs(config), config.prefix + config.patches
    return {
        "side": image // patch,
        "tokens": tokens,
        "parameters": sum(vit_parameters(config).values()),
        "macs": float(sum(macs.values())),
        "scores": 4.0 * config.depth * config.heads * tokens**2,
        "shares": [round(100 * macs[part] / sum(macs.values()), 1) for part in PARTS],
    }

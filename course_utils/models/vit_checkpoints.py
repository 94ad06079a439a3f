"""Checkpoints of other libraries into the course's ViT: every key is translated, or the load stops and names it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.models.checkpoint_files import fill, read_checkpoint
from course_utils.models.encoder import initialise
from course_utils.models.vit import ViT, interpolate_positions
from course_utils.models.vit_config import Size, ViTConfig, pair, patch_grid
from course_utils.models.vit_layouts import LAYOUTS, Layout

# Attention heads cannot be read off the weights. These widths are the paper's and DeiT's, 64 numbers per head in all.
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16}


def load(
    source: str | Path | Mapping[str, Tensor],
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    image_size: Size | None = None,
    checkpoint_image_size: Size | None = None,
    heads: int | None = None,
    ignore: Collection[str] = (),
    **changes: Any,
) -> ViT:
    """A :class:`ViT` in float32 with a checkpoint's weights, be it of transformers, timm, torchvision or this course.

    Args:
        source: a state dict; a file (``.safetensors``, or one of ``torch.save``, read with ``weights_only=True``); a
            directory that holds one, and perhaps a ``config.json``; or the name of a model on the Hugging Face Hub.
        num_classes: classes of the model wanted; by default those of the checkpoint (0 if it has no head).
        replace_head: a fresh head for ``num_classes`` takes the place of the checkpoint's. Without it another number of
            classes is refused, so that no 1000-way head survives, and none is lost, by accident.
        image_size: pixels of the model wanted; where they differ from the checkpoint's, the positions are interpolated.
        checkpoint_image_size: pixels the checkpoint was trained for; needed only if its grid is not square.
        heads: attention heads; needed only where no ``config.json`` says them and the width is not one of the paper's.
        ignore: beginnings of keys to leave out, such as ``("pooler.",)``.
        changes: other fields of :class:`ViTConfig`, such as ``dropout=0.1`` or ``norm_eps=1e-6``. What the weights
            do not tell is the library's: LayerNorm's epsilon (transformers 1e-12, others 1e-6) and how positions are
            interpolated (transformers without antialiasing, others with; torchvision's own helper aligns corners, which
            is not followed here).

    Raises:
        FileNotFoundError, OSError: nothing at that path, or the Hub cannot be reached.
        ValueError: a broken or foreign file, missing or left-over keys (listed), shapes that do not fit, or a head
            that would change without ``replace_head=True``.
    """
    state, said, where = read_checkpoint(source)
    state = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(ignore))}
    layout, weights = _translate(state, where)
    told = {**layout.fixed, **_from_weights(weights, where), **said}
    if any(key.endswith("fc_norm.weight") for key in state):
        told["pool"] = "mean"
    if (heads := heads or told.pop("heads", None) or HEADS_BY_WIDTH.get(told["width"])) is None:
        raise ValueError(
            f"{where} has width {told['width']}, and nothing tells over how many heads it is split: pass heads=, "
            f"a divisor of {told['width']}"
        )
    told |= {"heads": heads} | _positions(weights, told, checkpoint_image_size, where)
    config = ViTConfig(**told)
    config = replace(config, **changes, image_size=config.image_size if image_size is None else image_size)
    weights["positions"] = interpolate_positions(
        weights["positions"], ViTConfig(**told).grid, config.grid, config.antialias
    )
    config = replace(config, num_classes=_classes(told["num_classes"], num_classes, replace_head, where))
    return _fill(config, weights, replace_head, where)


def _translate(state: Mapping[str, Tensor], where: str) -> tuple[Layout, dict[str, Tensor]]:
    """Recognise the layout, give every tensor our name, and split what other libraries fuse."""
    bare = {key.removeprefix("vit.") for key in state}
    layout = next((layout for layout in LAYOUTS.values() if layout.marker in bare), None)
    if layout is None:
        some = ", ".join(list(state)[:3]) or "none at all"
        raise ValueError(
            f"{where} holds no Vision Transformer in a layout known here ({', '.join(LAYOUTS)}): "
            f"its first keys are {some}"
        )
    names = {key: layout.translate(key) for key in state}
    if unknown := [key for key, name in names.items() if name is None]:
        raise ValueError(
            f"{where} has keys that this model has no place for ({len(unknown)}): {', '.join(unknown)}. "
            f'If the model can do without them, pass ignore=("{unknown[0].split(".")[0]}.",)'
        )
    weights: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = names[key]
        assert name is not None
        parts = {name: tensor}
        if ".qkv." in name:  # [3D, D] or [3D]: queries, keys and values below each other
            parts = {name.replace(".qkv.", f".{p}_proj."): t for p, t in zip("qkv", tensor.chunk(3), strict=True)}
        weights |= {n: t.detach().to(torch.float32, copy=True) for n, t in parts.items()}
    return layout, weights


def _from_weights(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The fields of a config that shapes tell."""
    needed = ("patch_embedding.weight", "positions", "encoder.layers.0.mlp.fc1.weight")
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"{where} is incomplete: it lacks {', '.join(missing)} (by this course's names)")
    width, channels, *patch = weights["patch_embedding.weight"].shape
    numbers = {int(m[1]) for name in weights if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    return {
        "width": width,
        "channels": channels,
        "patch_size": tuple(patch),
        "depth": max(numbers) + 1,
        "mlp_ratio": weights["encoder.layers.0.mlp.fc1.weight"].shape[0] / width,
        "qkv_bias": "encoder.layers.0.attention.q_proj.bias" in weights,
        "num_classes": len(weights["head.weight"]) if "head.weight" in weights else 0,
        "class_token": "class_token" in weights,
        "registers": weights["registers"].shape[1] if "registers" in weights else 0,
        "mask_token": "mask_token" in weights,
        "pool": "cls" if "class_token" in weights else "mean",
    }


def _positions(
    weights: Mapping[str, Tensor], told: Mapping[str, Any], checkpoint_image_size: Size | None, where: str
) -> dict[str, Any]:
    """The image size behind the position table, and whether the class token has a row in it."""
    rows, patch = weights["positions"].shape[1], told["patch_size"]
    size = checkpoint_image_size if checkpoint_image_size is not None else told.get("image_size")
    if size is not None:
        patches = math.prod(patch_grid(pair(size), patch))
        own = rows - patches
    else:
        # With a class token, 16 rows could be 4 x 4 patches or 3 x 5 and the token: that is asked, not guessed.
        own = int(told["class_token"])
        side = math.isqrt(rows - own)
        size = (side * patch[0], side * patch[1])
        own = own if side**2 == rows - own else -1
    if own not in (0, int(told["class_token"])):
        raise ValueError(
            f"{where} has {rows} positions, which are no square grid{' and a class token' * told['class_token']}, nor "
            "fit a known image size: pass checkpoint_image_size=(height, width), the pixels it was trained for"
        )
    return {"image_size": size, "class_position": own == 1}


def _classes(has: int, wanted: int | None, replace_head: bool, where: str) -> int:
    if replace_head and wanted is None:
        raise ValueError("replace_head=True needs num_classes=, the classes of the new head")
    if wanted is None or (wanted == has and not replace_head):
        return has
    if not replace_head:
        raise ValueError(
            f"{where} has {f'a head for {has} classes' if has else 'no head'}, and num_classes={wanted} asks for "
            f"{f'one for {wanted}' if wanted else 'none'}: pass replace_head=True to put a fresh one in its place"
        )
    return wanted


def _fill(config: ViTConfig, weights: dict[str, Tensor], replace_head: bool, where: str) -> ViT:
    with torch.device("meta"):  # no memory and no random numbers for weights that are overwritten at once
        model = ViT(config)
    if replace_head:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        if config.num_classes:
            head = nn.Linear(config.width, config.num_classes)
            initialise(head)
            weights |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    fill(model, weights, where)
    return model

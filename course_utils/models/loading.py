"""Checkpoints of other libraries into the course's models: every key is translated, or the load stops and names it.

What all models need stands here, and the Vision Transformer; text encoders: :mod:`course_utils.models.text_loading`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from course_utils.models.checkpoint_files import Source, read_checkpoint
from course_utils.models.encoder import initialise
from course_utils.models.layouts import VIT_LAYOUTS, Layout
from course_utils.models.vit import ViT, interpolate_positions
from course_utils.models.vit_config import Size, ViTConfig, pair, patch_grid

# Attention heads cannot be read off the weights. These widths are the papers' of ViT and DeiT: 64 numbers per head.
VIT_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}

Model = TypeVar("Model", bound=nn.Module)


def load_vit(
    source: Source,
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
            directory that holds one, and perhaps a ``config.json``; or the name of a model on the Hugging Face Hub
            (``owner/model``).
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
    state, said, where = read(source, ignore)
    layout, weights = translate(state, VIT_LAYOUTS, "Vision Transformer", where)
    told = {**layout.fixed, **_from_vit_weights(weights, where), **_from_vit_config(said, where)}
    if any(key.endswith("fc_norm.weight") for key in state):
        told["pool"] = "mean"
    told["heads"] = choose_heads(heads or told.get("heads"), told["width"], VIT_HEADS, where)
    told |= _positions(weights, told, checkpoint_image_size, where)
    config = ViTConfig(**told)
    grid = config.grid
    num_classes = choose_classes(told["num_classes"], num_classes, replace_head, where)
    config = replace(
        config, **changes, num_classes=num_classes, image_size=config.image_size if image_size is None else image_size
    )
    weights["positions"] = interpolate_positions(weights["positions"], grid, config.grid, config.antialias)
    return fill(ViT, config, weights, replace_head, where)


def read(source: Source, ignore: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The tensors but for those whose names begin so, the ``config.json`` beside them, and what to call the source."""
    state, config, where = read_checkpoint(source)
    return {key: tensor for key, tensor in state.items() if not key.startswith(tuple(ignore))}, config, where


def translate(
    state: Mapping[str, Tensor], layouts: Mapping[str, Layout], what: str, where: str
) -> tuple[Layout, dict[str, Tensor]]:
    """Recognise the layout, give every tensor our name, and split what other libraries fuse."""
    layout = next((layout for layout in layouts.values() if layout.fits(state)), None)
    if layout is None:
        some = ", ".join(list(state)[:3]) or "none at all"
        raise ValueError(
            f"{where} holds no {what} in a layout known here ({', '.join(layouts)}): its first keys are {some}"
        )
    names = {key: layout.translate(key) for key in state}
    if unknown := [key for key, name in names.items() if name is None]:
        raise ValueError(
            f"{where} has keys that this model has no place for ({len(unknown)}): {_some(unknown)}. "
            f'If the model can do without them, pass ignore=("{unknown[0].split(".")[0]}.",)'
        )
    weights: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for key, name in names.items():
        assert name is not None
        if (other := keys.setdefault(name, key)) != key:
            raise ValueError(f"{where} holds {other} and {key}, which are one: save it again with one of them")
        parts = {name: state[key]}
        if ".qkv." in name:  # [3D, D] or [3D]: queries, keys and values below each other
            parts = {name.replace(".qkv.", f".{p}_proj."): t for p, t in zip("qkv", state[key].chunk(3), strict=True)}
        weights |= {n: t.detach().to(torch.float32, copy=True) for n, t in parts.items()}
    return layout, weights


def from_weights(
    weights: Mapping[str, Tensor], embedding: str, dim: int, needed: Sequence[str], where: str
) -> dict[str, Any]:
    """The fields of any config that shapes tell. The width is that of dimension ``dim`` of the embedding's weight."""
    fc1 = "encoder.layers.0.mlp.fc1.weight"
    if missing := [name for name in (embedding, *needed, fc1) if name not in weights]:
        raise ValueError(f"{where} is incomplete: it lacks {', '.join(missing)} (by this course's names)")
    # Of a head, one tensor is enough to ask for the whole, or half a head would pass for none.
    head = [tensor for name, tensor in weights.items() if name.startswith("head.")]
    width = weights[embedding].shape[dim]
    return {
        "width": width,
        "mlp_ratio": weights[fc1].shape[0] / width,
        "depth": 1 + max(int(m[1]) for name in weights if (m := re.match(r"encoder\.layers\.(\d+)\.", name))),
        "qkv_bias": "encoder.layers.0.attention.q_proj.bias" in weights,
        "num_classes": len(head[0]) if head else 0,
    }


def _from_vit_weights(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    told = from_weights(weights, "patch_embedding.weight", 0, ["positions"], where)
    _, channels, *patch = weights["patch_embedding.weight"].shape
    return told | {
        "channels": channels,
        "patch_size": tuple(patch),
        "class_token": "class_token" in weights,
        "registers": weights["registers"].shape[1] if "registers" in weights else 0,
        "mask_token": "mask_token" in weights,
        "pool": "cls" if "class_token" in weights else "mean",
    }


def _from_vit_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What ``config.json`` of transformers or timm says beyond the weights."""
    if not config:
        return {}
    if "architecture" in config:  # timm
        pool = {"token": "cls", "avg": "mean", None: None}.get(config.get("global_pool"), "unknown")
        if pool == "unknown":
            raise ValueError(
                f"{where}: config.json says global_pool {config['global_pool']!r}, and this ViT pools token or avg"
            )
        height, width = config.get("pretrained_cfg", config).get("input_size", (None, None, None))[1:]
        size = (height, width) if height else None
        said = {"pool": pool, "image_size": size, "heads": config.get("model_args", {}).get("num_heads")}
        return {name: value for name, value in said.items() if value is not None}
    said = from_transformers_config(config, ("vit",), 0.0, where)
    size = config.get("image_size", 224)
    return said | {"image_size": tuple(size) if isinstance(size, list) else size}


def from_transformers_config(
    config: Mapping[str, Any], kinds: tuple[str | None, ...], dropout: float, where: str
) -> dict[str, Any]:
    """What is said of every encoder. A config may leave out what equals the library's default."""
    for name, readable in (("model_type", kinds), ("hidden_act", ("gelu", None))):
        if (value := config.get(name)) not in readable:
            raise ValueError(f'{where}: config.json says {name} {value!r}, and only "{readable[0]}" is read here')
    return {
        "heads": config.get("num_attention_heads", 12),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": config.get("hidden_dropout_prob", dropout),
        "attention_dropout": config.get("attention_probs_dropout_prob", dropout),
    }


def choose_heads(said: int | None, width: int, by_width: Mapping[int, int], where: str) -> int:
    """The number of attention heads: as it is said, or that of the papers for this width."""
    if (heads := said or by_width.get(width)) is None:
        raise ValueError(
            f"{where} has width {width}, and nothing tells over how many heads it is split: pass heads=, a divisor of "
            f"{width}"
        )
    return heads


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


def choose_classes(has: int, wanted: int | None, replace_head: bool, where: str) -> int:
    """The classes of the model, where a checkpoint ``has`` so many and so many are ``wanted``."""
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


def fill(kind: type[Model], config: Any, weights: dict[str, Tensor], fresh_head: bool, where: str) -> Model:
    """A model of exactly these weights, or an error that says what is missing, left over or of another shape."""
    if fresh_head:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        if config.num_classes:
            head = nn.Linear(config.width, config.num_classes)
            initialise(head)
            weights |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    with torch.device("meta"):  # no memory and no random numbers for weights that are overwritten at once
        model = kind(config)
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    faults = [f"{name} is missing" for name in ours.keys() - weights.keys()]
    faults += [f"{name} is left over" for name in weights.keys() - ours.keys()]
    faults += [
        f"{name} has shape {list(weights[name].shape)} where {list(shape)} is wanted"
        for name, shape in ours.items()
        if name in weights and weights[name].shape != shape
    ]
    if faults:
        raise ValueError(
            f"{where} does not fit the model in {len(faults)} places (by this course's names): "
            f"{_some(sorted(faults), '; ')}. Load a checkpoint of this very model, saved whole"
        )
    model.load_state_dict(weights, assign=True)
    return model


def _some(words: Sequence[str], between: str = ", ", most: int = 8) -> str:
    """The first few of many words, and how many more there are."""
    return between.join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")

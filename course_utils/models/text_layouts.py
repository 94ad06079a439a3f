"""BERT checkpoints into the course's :class:`TextModel`: every key is translated, or the load stops and names it.

transformers names the parameters of BERT today as it did in 2019, but for two things that files from before still
have: LayerNorm's ``gamma`` and ``beta``, and a stored table of position numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.models import checkpoint_files
from course_utils.models.encoder import initialise
from course_utils.models.text import TextConfig, TextModel
from course_utils.models.vit_layouts import LAYOUTS as VIT_LAYOUTS
from course_utils.models.vit_layouts import Layout

_EMBEDDINGS = ("word_embedding", "position_embedding", "token_type_embedding", "embedding_norm", "norm")
LAYOUTS = {
    "this course": Layout(
        "encoder.layers.0.attention.q_proj.weight",
        {name: name for name in (*_EMBEDDINGS, "pooler", "head")},
        "encoder.layers.#.",
        VIT_LAYOUTS["this course"].parts,
    ),
    "transformers": Layout(
        "encoder.layer.0.attention.self.query.weight",
        {
            "embeddings.word_embeddings": "word_embedding",
            "embeddings.position_embeddings": "position_embedding",
            "embeddings.token_type_embeddings": "token_type_embedding",
            "embeddings.LayerNorm": "embedding_norm",
            "pooler.dense": "pooler",
            "classifier": "head",
        },
        "encoder.layer.#.",
        {
            "attention.self.query": "attention.q_proj",
            "attention.self.key": "attention.k_proj",
            "attention.self.value": "attention.v_proj",
            "attention.output.dense": "attention.out_proj",
            "attention.output.LayerNorm": "norm1",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
            "output.LayerNorm": "norm2",
        },
    ),
}
# Heads cannot be read off the weights. Only BERT's own two sizes are assumed; small models differ (384: 6 or 12).
HEADS_BY_WIDTH = {768: 12, 1024: 16}


def load(
    source: str | Path | Mapping[str, Tensor],
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    heads: int | None = None,
    ignore: Collection[str] = ("cls.",),
    **changes: Any,
) -> TextModel:
    """A :class:`TextModel` in float32 with the weights of a BERT of transformers, or of this course.

    Args:
        source: a state dict; a file (``.safetensors``, or one of ``torch.save``, read with ``weights_only=True``); a
            directory that holds one, and perhaps a ``config.json``; or the name of a model on the Hugging Face Hub
            (``owner/model``).
        num_classes: classes of the model wanted; by default those of the checkpoint. A checkpoint without a head gets a
            fresh one.
        replace_head: a fresh head takes the place of the checkpoint's; without it another number of classes is refused.
        heads: attention heads; needed only where no ``config.json`` says them and the width is not one of BERT's.
        ignore: beginnings of keys to leave out; by default BERT's two pre-training heads.
        changes: other fields of :class:`TextConfig`, such as ``dropout=0.1``, or ``pool="mean", pooler=False``, which
            leaves the checkpoint's pooler out.

    Raises:
        FileNotFoundError, OSError: nothing at that path, or the Hub cannot be reached.
        ValueError: a broken or foreign file, missing or left-over keys (listed), shapes that do not fit, or a head
            that would change without ``replace_head=True``.
    """
    state, said, where = _read(source)
    weights = _translate({k: t for k, t in state.items() if not k.startswith(tuple(ignore))}, where)
    told = {**_from_weights(weights, where), **said}
    heads = heads or told.pop("heads", None) or HEADS_BY_WIDTH.get(told["width"])
    if heads is None:
        raise ValueError(
            f"{where} has width {told['width']}, and nothing tells over how many heads it is split: pass heads=, "
            f"a divisor of {told['width']}"
        )
    has = told["num_classes"]
    if has and num_classes not in (None, has) and not replace_head:
        raise ValueError(
            f"{where} has a head for {has} classes, and num_classes={num_classes} asks for another: pass "
            "replace_head=True to put a fresh one in its place"
        )
    if replace_head and num_classes is None:
        raise ValueError("replace_head=True needs num_classes=, the classes of the new head")
    config = TextConfig(**{**told, "heads": heads, "num_classes": has if num_classes is None else num_classes})
    config = replace(config, **changes)
    if not config.pooler:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    if replace_head or not has:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        if config.num_classes:
            head = nn.Linear(config.width, config.num_classes)
            initialise(head)
            weights |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    return _fill(config, weights, where)


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The tensors by name, what a ``config.json`` says, and what to call the source."""
    if isinstance(source, str) and not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        source = checkpoint_files.download(source)
    if not isinstance(source, str | Path) or not (folder := Path(source)).is_dir():
        return checkpoint_files.read_checkpoint(source)
    if not (file := next((folder / name for name in checkpoint_files.FILES if (folder / name).exists()), None)):
        names = ", ".join(checkpoint_files.FILES)
        raise FileNotFoundError(f"directory {folder.name!r} holds none of {names}: name the file itself")
    said = _read_config(folder / "config.json") if (folder / "config.json").exists() else {}
    return checkpoint_files.read_checkpoint(file)[0], said, f"{folder.name}/{file.name}"


def _read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` of transformers says beyond the weights, as fields of a TextConfig."""
    where = f"{path.parent.name}/{path.name}"
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}): save or download it again") from error
    for name, only in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if (value := config.get(name) or only) != only:
            raise ValueError(f'{where} says {name} {value!r}, and only "{only}" is read here')
    if config.get("is_decoder"):
        raise ValueError(f"{where} describes a decoder (is_decoder), and this is an encoder: take a checkpoint of one")
    theirs = {  # config.json may leave out what equals the library's default
        "heads": ("num_attention_heads", 12),
        "norm_eps": ("layer_norm_eps", 1e-12),
        "dropout": ("hidden_dropout_prob", 0.1),
        "attention_dropout": ("attention_probs_dropout_prob", 0.1),
        "pad_token": ("pad_token_id", 0),
        "head_dropout": ("classifier_dropout", None),
    }
    return {ours: config.get(name, default) for ours, (name, default) in theirs.items()}


def _translate(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Recognise the layout and give every tensor our name."""
    bare: dict[str, str] = {}  # theirs without "bert." and with today's leaf names, to the key as it stands
    for key, tensor in state.items():
        name = re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: {"gamma": "weight", "beta": "bias"}[m[1]], key)
        name = name.removeprefix("bert.")
        if name == "embeddings.position_ids":  # 0, 1, 2, ...: what this model counts for itself
            if not torch.equal(tensor.flatten(), torch.arange(tensor.numel())):
                raise ValueError(f"{where} numbers its positions otherwise than 0, 1, 2, ...: it is no BERT")
        elif name in bare:
            raise ValueError(f"{where} holds {bare[name]} and {key}, which are one: save it again with one of them")
        else:
            bare[name] = key
    layout = next((layout for layout in LAYOUTS.values() if layout.marker in bare), None)
    if layout is None:
        some = ", ".join(list(state)[:3]) or "none at all"
        raise ValueError(
            f"{where} holds no BERT in a layout known here ({', '.join(LAYOUTS)}): its first keys are {some}"
        )
    names = {key: layout.translate(name) for name, key in bare.items()}
    if unknown := [key for key, name in names.items() if name is None]:
        raise ValueError(
            f"{where} has keys that this model has no place for ({len(unknown)}): {', '.join(unknown)}. "
            f'If the model can do without them, pass ignore= the beginnings of their names, such as ("{unknown[0]}",)'
        )
    return {str(name): state[key].detach().to(torch.float32, copy=True) for key, name in names.items()}


def _from_weights(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The fields of a config that shapes tell."""
    tables = ("word_embedding.weight", "position_embedding.weight", "token_type_embedding.weight")
    fc1 = "encoder.layers.0.mlp.fc1.weight"
    if missing := [name for name in (*tables, fc1) if name not in weights]:
        raise ValueError(f"{where} is incomplete: it lacks {', '.join(missing)} (by this course's names)")
    vocab_size, max_length, token_types = (len(weights[name]) for name in tables)
    width = weights[tables[0]].shape[1]
    # Of a pooler or a head, one tensor is enough to ask for the whole, or half a head would pass for none.
    head = [tensor for name, tensor in weights.items() if name.startswith("head.")]
    numbers = {int(m[1]) for name in weights if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    return {
        "vocab_size": vocab_size,
        "max_length": max_length,
        "token_types": token_types,
        "width": width,
        "depth": max(numbers) + 1,
        "mlp_ratio": weights[fc1].shape[0] / width,
        "qkv_bias": "encoder.layers.0.attention.q_proj.bias" in weights,
        "norm_first": "norm.weight" in weights,
        "pooler": any(name.startswith("pooler.") for name in weights),
        "num_classes": len(head[0]) if head else 0,
    }


def _fill(config: TextConfig, weights: dict[str, Tensor], where: str) -> TextModel:
    with torch.device("meta"):  # no memory and no random numbers for weights that are overwritten at once
        model = TextModel(config)
    checkpoint_files.fill(model, weights, where)
    return model

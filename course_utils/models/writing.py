"""The course's encoders out: folders that transformers and timm open, with the same logits.

The names are those of :mod:`course_utils.models.layouts`, read backwards; what a library cannot compute is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from course_utils.files import atomic_write, made_folder
from course_utils.models.encoder import EncoderConfig
from course_utils.models.layouts import TEXT_LAYOUTS, VIT_LAYOUTS, Layout
from course_utils.models.text import TextConfig
from course_utils.models.vit import ViT
from course_utils.models.vit_config import pair

Library = Literal["transformers", "timm"]
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and deviation of each channel, of pixels from 0 to 1


def renamed(weights: Mapping[str, Tensor], layout: Layout, heads: Sequence[str] = ("head",)) -> dict[str, Tensor]:
    """Our tensors under a library's names; queries, keys and values in one, where the library has them so.

    Args:
        heads: beginnings of our names that stand outside the body, and so get no prefix.

    Raises:
        ValueError: a tensor that the layout has no name for.
    """
    weights = dict(weights)
    if "attention.qkv" in layout.parts.values():
        for name in [name for name in weights if ".attention.q_proj." in name]:
            parts = [weights.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            weights[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    # Where two of their names are one of ours, the first is what is written.
    places = {ours: theirs for theirs, ours in reversed(list(layout.embeddings.items()))}
    parts_of = {ours: theirs for theirs, ours in reversed(list(layout.parts.items()))}
    found = {}
    for name, tensor in weights.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        rest, table = (name[layer.end() :], parts_of) if layer else (name, places)
        stem, _, leaf = rest.rpartition(".")
        theirs = table.get(rest) or (f"{table[stem]}.{leaf}" if stem in table else None)
        if theirs is None:
            raise ValueError(f"{name} has no place in the layout of this library: keep the model here")
        before = layout.layer.replace("#", layer[1]) if layer else ""
        prefix = "" if rest.startswith(tuple(heads)) and not layer else layout.prefix
        found[prefix + before + theirs] = tensor
    return found


def write_folder(folder: str | Path, weights: Mapping[str, Tensor], **files: Any) -> Path:
    """Write ``model.safetensors`` and a JSON file for each of ``files``; the config, which readers look for, last.

    Raises:
        OSError: it cannot be written.
    """
    folder = made_folder(folder)
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(safetensors.torch.save(own, {"format": "pt"}))
    for name in sorted(files, key=lambda name: name == "config"):
        with atomic_write(folder / f"{name}.json", "w") as file:
            json.dump(files[name], file, indent=2, ensure_ascii=False)
    return folder


def labels_of_config(labels: Sequence[str]) -> dict[str, Any]:
    """What transformers' config calls the outputs."""
    places = {label: place for place, label in enumerate(labels)}
    return {"id2label": {str(place): label for label, place in places.items()}, "label2id": places}


def _encoder_fields(config: EncoderConfig, labels: Sequence[str]) -> dict[str, Any]:
    """What transformers' config says of any encoder."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.norm_eps,
        **labels_of_config(labels),
    }


# ---- Vision Transformers -----------------------------------------------------------------------------------------


def save_vit(model: ViT, folder: str | Path, library: Library, labels: Sequence[str], statistics: Statistics) -> Path:
    """Write a ViT as ``ViTForImageClassification.from_pretrained(folder)`` of transformers opens it, or
    ``timm.create_model("local-dir:folder", pretrained=True)``.

    Args:
        labels: names of the classes.
        statistics: what the pixels are normalised with.

    Raises:
        ValueError: the library's model does not compute what this one does.
    """
    write = {"transformers": _vit_of_transformers, "timm": _vit_of_timm}[library]
    config = model.config
    if config.num_classes != len(labels):
        raise ValueError(f"the model has {config.num_classes} outputs and there are {len(labels)} labels: give all")
    if any(name.startswith("patch_embedding.") and name.count(".") > 1 for name in model.state_dict()):
        raise ValueError(
            f"a stem of convolutions has no place in a ViT of {library}: train one without (--preset deit)"
        )
    if not config.norm_first or config.mask_token:
        raise ValueError(f"a ViT of {library} is pre-norm and has no mask token: keep the model here")
    return write(model, Path(folder), labels, statistics)


def _vit_of_transformers(model: ViT, folder: Path, labels: Sequence[str], statistics: Statistics) -> Path:
    config, (height, width) = model.config, pair(model.config.image_size)
    if config.pool != "cls" or not config.class_position or config.registers:
        raise ValueError(
            "a ViT of transformers reads a class token with a position and has no registers, and this one does "
            "otherwise: choose library timm"
        )
    said = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        **_encoder_fields(config, labels),
        "qkv_bias": config.qkv_bias,
        "image_size": height if height == width else [height, width],
        "patch_size": pair(config.patch_size)[0] if len(set(pair(config.patch_size))) == 1 else pair(config.patch_size),
        "num_channels": config.channels,
    }
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(statistics[0]),
        "image_std": list(statistics[1]),
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }
    weights = renamed(model.state_dict(), VIT_LAYOUTS["transformers 4"])  # as version 5 still writes them
    return write_folder(folder, weights, preprocessor_config=preprocessor, config=said)


def _vit_of_timm(model: ViT, folder: Path, labels: Sequence[str], statistics: Statistics) -> Path:
    config = model.config
    if config.norm_eps != 1e-6:
        raise ValueError(
            f"a ViT of timm has a LayerNorm epsilon of 1e-6, this one {config.norm_eps}: choose transformers"
        )
    size = pair(config.image_size)
    options = {
        "img_size": list(size),
        "patch_size": list(pair(config.patch_size)),
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_width / config.width,
        "qkv_bias": config.qkv_bias,
        "class_token": config.class_token,
        "no_embed_class": not config.class_position,
        "reg_tokens": config.registers,
        "in_chans": config.channels,
    }
    pool = {"cls": "token", "mean": "avg"}[config.pool]
    pretrained = {
        "input_size": [config.channels, *size],
        "mean": list(statistics[0]),
        "std": list(statistics[1]),
        "num_classes": len(labels),
        "label_names": list(labels),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    said = {
        "architecture": "vit_base_patch16_224",  # the name is a beginning; model_args say what differs
        "num_classes": len(labels),
        "num_features": config.width,
        "global_pool": pool,
        "model_args": {**options, "global_pool": pool},
        "pretrained_cfg": pretrained,
    }
    weights = renamed(model.state_dict(), VIT_LAYOUTS["timm"])
    if config.pool == "mean":
        weights = {re.sub(r"^norm\.", "fc_norm.", name): tensor for name, tensor in weights.items()}
    return write_folder(folder, weights, config=said)


# ---- text encoders -----------------------------------------------------------------------------------------------


def bert_config(config: TextConfig, labels: Sequence[str]) -> dict[str, Any]:
    """transformers' config of a text encoder as a BERT.

    Raises:
        ValueError: a BERT does not compute what this encoder does.
    """
    if config.norm_first or config.embedded_width != config.width:
        raise ValueError("a BERT is post-norm and embeds in its own width, and this encoder not: keep the model here")
    return {
        "architectures": ["BertForSequenceClassification" if config.pooler else "BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        **_encoder_fields(config, labels),
        "classifier_dropout": config.head_dropout,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.token_types,
        "pad_token_id": config.pad_token,
    }


def save_text(weights: Mapping[str, Tensor], config: TextConfig, folder: str | Path, labels: Sequence[str]) -> Path:
    """Write a text encoder and its head as transformers opens them.

    With BERT's pooler it is what ``AutoModelForSequenceClassification.from_pretrained(folder)`` opens. Without it
    transformers has no such classifier: the folder is what ``AutoModel`` opens, and ``head.safetensors`` in it holds
    the ``weight`` ``[K, D]`` and the ``bias`` of the head, which reads the first token or the mean of the real ones.

    Args:
        weights: by this course's names, without anything that tuning put round them.
    """
    said = bert_config(config, labels)
    if config.pooler:
        return write_folder(folder, renamed(weights, TEXT_LAYOUTS["transformers"]), config=said)
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    bare = {name.removeprefix("bert."): tensor for name, tensor in renamed(body, TEXT_LAYOUTS["transformers"]).items()}
    written = write_folder(folder, bare, config=said)
    head = {name: weights[f"head.{name}"].detach().to("cpu", copy=True).contiguous() for name in ("weight", "bias")}
    with atomic_write(written / "head.safetensors") as file:
        file.write(safetensors.torch.save(head, {"format": "pt", "pool": config.pool}))
    return written

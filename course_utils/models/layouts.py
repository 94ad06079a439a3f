"""The names under which other libraries store the parameters of a ViT or a text encoder, translated to this course's.

transformers changed its names of a ViT in version 5 for models in memory and still writes the old ones to disk. It
names the parameters of BERT as it did in 2019, but for LayerNorm's: files from before have ``gamma`` and ``beta``.
timm and torchvision fuse queries, keys and values into one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How a library names the parameters of a model: theirs to ours, ``#`` for the layer's number."""

    marker: str  # a key that this layout has and no other
    embeddings: Mapping[str, str]
    layer: str  # what stands before the parts of a layer
    parts: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what the library's code decides and its weights do not say
    prefix: str = ""  # what a model with a head puts before the names of its body
    pretraining: tuple[str, ...] = ()  # beginnings of keys of the heads it was pretrained with
    foreign_head: tuple[str, ...] = ()  # of a classifier that computes otherwise than this course's

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether these keys are of this layout."""
        return any(key.removeprefix(self.prefix) == self.marker for key in keys)

    def translate(self, key: str) -> str | None:
        """Our name of their parameter, or None if this layout has no such parameter."""
        name = key.removeprefix(self.prefix)
        number = re.match(re.escape(self.layer).replace(r"\#", r"(\d+)"), name)
        table, place = (self.parts, f"encoder.layers.{number[1]}.") if number else (self.embeddings, "")
        name = name[number.end() :] if number else name
        stem, _, leaf = name.rpartition(".")
        if stem.endswith("LayerNorm"):
            leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
        if name in table:
            return place + table[name]
        return f"{place}{table[stem]}.{leaf}" if stem in table else None


_HF_EMBEDDINGS = {
    "embeddings.cls_token": "class_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection": "patch_embedding",
    "layernorm": "norm",
    "classifier": "head",
}
_OWN_PARTS = ("norm1", "norm2", "mlp.fc1", "mlp.fc2", *(f"attention.{p}_proj" for p in ("q", "k", "v", "out")))
_OWN_EMBEDDINGS = ("class_token", "registers", "mask_token", "positions", "patch_embedding", "norm", "head")

VIT_LAYOUTS = {
    "this course": Layout(
        "encoder.layers.0.attention.q_proj.weight",
        {name: name for name in _OWN_EMBEDDINGS},
        "encoder.layers.#.",
        {name: name for name in _OWN_PARTS},
    ),
    "transformers 4": Layout(
        "encoder.layer.0.attention.attention.query.weight",
        _HF_EMBEDDINGS,
        "encoder.layer.#.",
        {
            "layernorm_before": "norm1",
            "attention.attention.query": "attention.q_proj",
            "attention.attention.key": "attention.k_proj",
            "attention.attention.value": "attention.v_proj",
            "attention.output.dense": "attention.out_proj",
            "layernorm_after": "norm2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
        {"norm_eps": 1e-12, "antialias": False},
        prefix="vit.",
    ),
    "transformers 5": Layout(
        "layers.0.attention.q_proj.weight",
        _HF_EMBEDDINGS,
        "layers.#.",
        {
            "layernorm_before": "norm1",
            "attention.q_proj": "attention.q_proj",
            "attention.k_proj": "attention.k_proj",
            "attention.v_proj": "attention.v_proj",
            "attention.o_proj": "attention.out_proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        },
        {"norm_eps": 1e-12, "antialias": False},
        prefix="vit.",
    ),
    "timm": Layout(
        "blocks.0.attn.qkv.weight",
        {
            "cls_token": "class_token",
            "reg_token": "registers",
            "pos_embed": "positions",
            "patch_embed.proj": "patch_embedding",
            "norm": "norm",
            "fc_norm": "norm",  # the same LayerNorm, but behind the mean of the patches
            "head": "head",
        },
        "blocks.#.",
        {
            "norm1": "norm1",
            "attn.qkv": "attention.qkv",
            "attn.proj": "attention.out_proj",
            "norm2": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        },
        {"norm_eps": 1e-6},
    ),
    "torchvision": Layout(
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
        {
            "class_token": "class_token",
            "encoder.pos_embedding": "positions",
            "conv_proj": "patch_embedding",
            "encoder.ln": "norm",
            "heads.head": "head",
        },
        "encoder.layers.encoder_layer_#.",
        {
            "ln_1": "norm1",
            "self_attention.in_proj_weight": "attention.qkv.weight",
            "self_attention.in_proj_bias": "attention.qkv.bias",
            "self_attention.out_proj": "attention.out_proj",
            "ln_2": "norm2",
            "mlp.0": "mlp.fc1",
            "mlp.3": "mlp.fc2",
            "mlp.linear_1": "mlp.fc1",  # in the files published before torchvision 0.13
            "mlp.linear_2": "mlp.fc2",
        },
        {"norm_eps": 1e-6},
    ),
}

_TEXT_EMBEDDINGS = ("word_embedding", "position_embedding", "token_type_embedding", "embedding_norm")
_BERT_MARKER = "encoder.layer.0.attention.self.query.weight"
_BERT_EMBEDDINGS = {
    "embeddings.word_embeddings": "word_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.token_type_embeddings": "token_type_embedding",
    "embeddings.LayerNorm": "embedding_norm",
    "pooler.dense": "pooler",
    "classifier": "head",
}
_BERT_PARTS = {
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.output.dense": "attention.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "norm2",
}
TEXT_LAYOUTS = {
    "this course": Layout(
        "encoder.layers.0.attention.q_proj.weight",
        {name: name for name in (*_TEXT_EMBEDDINGS, "embedding_projection", "norm", "pooler", "head")},
        "encoder.layers.#.",
        VIT_LAYOUTS["this course"].parts,
    ),
    "transformers": Layout(_BERT_MARKER, _BERT_EMBEDDINGS, "encoder.layer.#.", _BERT_PARTS, prefix="bert."),
    "RoBERTa": Layout(
        _BERT_MARKER,
        {**_BERT_EMBEDDINGS, "classifier.dense": "pooler", "classifier.out_proj": "head"},  # with a tanh between
        "encoder.layer.#.",
        _BERT_PARTS,
        prefix="roberta.",
        pretraining=("lm_head.",),
    ),
    "ELECTRA": Layout(
        _BERT_MARKER,
        {**_BERT_EMBEDDINGS, "embeddings_project": "embedding_projection"},
        "encoder.layer.#.",
        _BERT_PARTS,
        prefix="electra.",
        pretraining=("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
        foreign_head=("classifier.",),  # with a GELU
    ),
    "DistilBERT": Layout(
        "transformer.layer.0.attention.q_lin.weight",
        {
            "embeddings.word_embeddings": "word_embedding",
            "embeddings.position_embeddings": "position_embedding",
            "embeddings.LayerNorm": "embedding_norm",
        },
        "transformer.layer.#.",
        {
            **{f"attention.{theirs}_lin": f"attention.{theirs}_proj" for theirs in ("q", "k", "v", "out")},
            "sa_layer_norm": "norm1",
            "ffn.lin1": "mlp.fc1",
            "ffn.lin2": "mlp.fc2",
            "output_layer_norm": "norm2",
        },
        prefix="distilbert.",
        pretraining=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
        foreign_head=("pre_classifier.", "classifier."),  # with a ReLU
    ),
}

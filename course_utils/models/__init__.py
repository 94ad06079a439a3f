"""Models built from small parts: the one Transformer encoder, and the text model and Vision Transformer around it."""

from course_utils.models.encoder import (
    MLP,
    Attention,
    Encoder,
    EncoderConfig,
    EncoderLayer,
    attention_maps,
    attention_weights,
    join_heads,
    split_heads,
)
from course_utils.models.loading import load_vit
from course_utils.models.text import TextConfig, TextModel
from course_utils.models.text_loading import load_text
from course_utils.models.vit import PatchEmbedding, ViT, interpolate_positions, patchify
from course_utils.models.vit_config import PRESETS, ViTConfig

__all__ = [
    "MLP",
    "PRESETS",
    "Attention",
    "Encoder",
    "EncoderConfig",
    "EncoderLayer",
    "PatchEmbedding",
    "TextConfig",
    "TextModel",
    "ViT",
    "ViTConfig",
    "attention_maps",
    "attention_weights",
    "interpolate_positions",
    "join_heads",
    "load_text",
    "load_vit",
    "patchify",
    "split_heads",
]

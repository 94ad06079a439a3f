"""The text encoder that comes with the course: four layers of multilingual-e5-small for Chinese, in 4.5 bits a weight.

A matrix is stored in blocks of 32 values of a row, each block one FP16 scale ``s`` and 32 codes ``c`` of 4 bits; a
value is ``s (c - 8)``. What it is made of and what it reaches stands in its card, ``embedded_files/encoder.md``; the
script that made it is ``tools/make_encoder.py``.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from course_utils.models.checkpoint_files import unpack_embedded
from course_utils.models.text import TextModel
from course_utils.models.text_loading import load_text

ENCODER = resources.files("course_utils.models") / "embedded_files" / "encoder.safetensors"
ENCODER_SHA256 = "52d7185f280f0364b20ced119a781b471ef0510cd179699b821d568f0a157e56"  # as tools/make_encoder prints it
SCALES, CODES = ".scales", ".codes"  # what the two tensors of a matrix in blocks are called, behind its name


def load_encoder(num_classes: int = 0, **changes: Any) -> tuple[TextModel, Tokenizer]:
    """The embedded encoder in float32, pooled by the mean, and the tokenizer that belongs to it.

    Args:
        num_classes: classes of a fresh head, drawn from torch's generator; 0 for none, the model then returns features.
        changes: other fields of :class:`~course_utils.models.text.TextConfig`, such as ``dropout=0.0``.

    Raises:
        ValueError: the file that was installed is not the one that was made.
    """
    weights, header = read_encoder(ENCODER.read_bytes())
    tokenizer = Tokenizer.from_str(header["tokenizer"])
    fields = {"norm_eps": header["norm_eps"], "pad_token": tokenizer.token_to_id("<pad>"), "dropout": 0.1}
    fields |= {"pool": "mean", "pooler": False, **changes}  # dropout in attention would leave its fast kernel
    return load_text(weights, num_classes=num_classes, heads=header["heads"], **fields), tokenizer


def read_encoder(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in float32 by name, and what stands in the file's header.

    Raises:
        ValueError: the content is not what its SHA-256 says.
    """
    stored, header = unpack_embedded(content, ENCODER_SHA256, "encoder")
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(CODES):
            name = name.removesuffix(CODES)
            tensor = dequantise(stored[name + SCALES], tensor)
        if not name.endswith(SCALES):
            weights[name] = tensor
    return weights, header


def dequantise(scales: Tensor, codes: Tensor) -> Tensor:
    """The values of blocks of 32.

    Args:
        scales: ``[rows, blocks]`` float16.
        codes: ``[rows, blocks, 16]`` bytes: byte j holds the codes of values j (low four bits) and j + 16 (high).

    Returns:
        ``[rows, 32 blocks]`` float32; exact, because 11 bits times 4 fit the 24 of float32.
    """
    steps = torch.cat([codes & 15, codes >> 4], dim=-1).float() - 8  # [rows, blocks, 32], -8 to 7
    return (scales.float()[..., None] * steps).flatten(1)

"""One safetensors file with a tree of JSON beside the tensors, sealed by a SHA-256: whole and unchanged, or refused.

Reading it runs no code, which reading a pickle can; the tensors open in any safetensors reader. Checkpoints, adapters
and shards are such files: their ``kind`` stands in the header.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from course_utils.files import atomic_write

VERSION = "1"


def write(path: str | Path, kind: str, tree: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tree`` (anything JSON can hold) and the tensors, which must be contiguous, on the CPU and unshared.

    Raises:
        OSError: the file cannot be written; what was there before is unchanged.
    """
    text = json.dumps(tree, ensure_ascii=False)
    header = {"format": f"course_utils {kind}", "version": VERSION, "sha256": _digest(text, tensors), "tree": text}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(dict(tensors), header))


def read(path: str | Path, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """The tree and the tensors of a file of this kind.

    Raises:
        FileNotFoundError, IsADirectoryError: nothing to read there.
        ValueError: the file is empty, truncated, damaged, of another kind or of another version.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not the file of one {kind}: name the file inside it")
    if not path.exists():
        raise FileNotFoundError(f"there is no {kind} {path}: check the path")
    blob, again = path.read_bytes(), "take an earlier copy, or make it again"
    if not blob:
        raise ValueError(f"{path} is empty and holds no {kind}: {again}")
    try:
        tensors = safetensors.torch.load(blob)
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        if re.match(rb"PK\x03\x04|\x80[\x02-\x05][^\0]", blob):  # a zip archive, or a bare pickle
            raise ValueError(
                f"{path} looks like a file of torch.save, which is not read here because a pickle can run code: load "
                f"it with torch.load(..., weights_only=True), and write a new {kind} of what it holds"
            ) from None
        size = f"{len(blob):,} bytes"
        raise ValueError(f"{path} ({size}) is truncated or no {kind} (safetensors: {error}): {again}") from None
    if header.get("format") != f"course_utils {kind}":
        raise ValueError(
            f"{path} is a safetensors file, but no {kind} of this course (its header says {header.get('format')!r}): "
            "to read plain weights use safetensors.torch.load_file and model.load_state_dict"
        )
    if header.get("version") != VERSION:
        found = header.get("version")
        raise ValueError(f"{path} has format version {found}, this code reads {VERSION}: update course_utils")
    if header.get("sha256") != _digest(header.get("tree", ""), tensors):
        raise ValueError(f"{path} is damaged (its SHA-256 does not match its content): {again}")
    return json.loads(header["tree"]), tensors


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

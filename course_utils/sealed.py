"""One safetensors file with a tree of JSON beside the tensors, sealed by a SHA-256: whole and unchanged, or refused.

Checkpoints (`training.checkpoint`) and adapters (`tuning.files`) are both such files; they differ in their tree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from course_utils.files import atomic_write


@dataclass(frozen=True)
class Seal:
    """A kind of sealed file, and how its errors speak.

    Args:
        format, version: stand in the header and are compared on reading.
        noun: what the file holds, such as ``"checkpoint"``.
        again: what to do when the file is broken.
        instead_of_pickle: what to do when it turns out to be a file of torch.save.
        instead_of_weights: what to do when it is a safetensors file without our header.
    """

    format: str
    version: str
    noun: str
    again: str
    instead_of_pickle: str
    instead_of_weights: str

    def write(self, path: str | Path, tree: Any, tensors: Mapping[str, Tensor]) -> None:
        """Write ``tree`` (anything JSON can hold) and the tensors, which must be contiguous, on the CPU and unshared.

        Raises:
            OSError: the file cannot be written; what was there before is unchanged.
        """
        text = json.dumps(tree, ensure_ascii=False)
        header = {"format": self.format, "version": self.version, "sha256": _digest(text, tensors), "tree": text}
        with atomic_write(path) as file:
            file.write(safetensors.torch.save(dict(tensors), header))

    def read(self, path: Path) -> tuple[Any, dict[str, Tensor]]:
        """The tree and the tensors.

        Raises:
            FileNotFoundError, IsADirectoryError: nothing to read there.
            ValueError: the file is empty, truncated, damaged, of another kind or of another version.
        """
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, not the file of one {self.noun}: name the file inside it")
        if not path.exists():
            raise FileNotFoundError(f"there is no {self.noun} {path}: check the path")
        blob = path.read_bytes()
        if not blob:
            raise ValueError(f"{path} is empty and holds no {self.noun}: {self.again}")
        try:
            tensors = safetensors.torch.load(blob)
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")]).get("__metadata__", {})
        except (SafetensorError, ValueError) as error:
            if re.match(rb"PK\x03\x04|\x80[\x02-\x05][^\0]", blob):  # a zip archive, or a bare pickle
                raise ValueError(f"{path} looks like a file of torch.save, {self.instead_of_pickle}") from None
            raise ValueError(
                f"{path} ({len(blob):,} bytes) is truncated or no {self.noun} (safetensors: {error}): {self.again}"
            ) from None
        if header.get("format") != self.format:
            raise ValueError(
                f"{path} is a safetensors file, but no {self.noun} of this course (no '{self.format}' in its header)"
                f": {self.instead_of_weights}"
            )
        if header.get("version") != self.version:
            raise ValueError(
                f"{path} has format version {header.get('version')}, this code reads {self.version}: "
                "update course_utils"
            )
        if header.get("sha256") != _digest(header.get("tree", ""), tensors):
            raise ValueError(f"{path} is damaged (its SHA-256 does not match its content): {self.again}")
        return json.loads(header["tree"]), tensors


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Read a checkpoint from wherever it lies: a state dict, a file, a directory, or the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

Source = str | Path | Mapping[str, Tensor]  # a file, a directory or a name on the Hugging Face Hub, or a state dict
FILES = ("model.safetensors", "pytorch_model.bin")
# What training scripts call the weights in a file that holds more. Where there are averaged weights (EMA), as timm and
# torchvision's scripts write them, these were the better ones and are taken, as timm itself does.
WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")


def read_checkpoint(source: Source) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The tensors of a checkpoint by name, the content of the ``config.json`` beside it, and what to call it.

    Raises:
        FileNotFoundError: no such path, and no Hub name either.
        OSError: the Hub cannot be reached or has no such model.
        ValueError: a broken file, or one that holds no tensors by name.
    """
    if isinstance(source, nn.Module):
        raise ValueError(f"a {type(source).__name__} is a model: give its model.state_dict()")
    if isinstance(source, Mapping):
        return _unwrapped(source, "the state dict"), {}, "the state dict"
    path, config, where = Path(source), {}, Path(source).name
    if not path.exists():
        if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise FileNotFoundError(f"there is no file or directory {str(source)!r}: give the path of a checkpoint")
        path = _download(source)
    if (folder := path).is_dir():
        if not (files := [folder / name for name in FILES if (folder / name).exists()]):
            raise FileNotFoundError(f"directory {folder.name!r} holds none of {', '.join(FILES)}: name the file itself")
        path, where = files[0], f"{folder.name}/{files[0].name}"
        if (file := folder / "config.json").exists():
            try:
                config = json.loads(file.read_text())
            except ValueError as error:
                raise ValueError(
                    f"{folder.name}/config.json is no JSON ({error}): save or download it again"
                ) from error
    return _unwrapped(_read_file(path), where), config, where


def unpack_embedded(content: bytes, sha256: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file that comes with the course, as stored, and the JSON in its header.

    Args:
        sha256: the file's, as it was made.
        what: the key that the JSON stands under, and what an error calls the file.

    Raises:
        ValueError: the content is not what its SHA-256 says.
    """
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"the embedded {what} has {len(content):,} bytes and SHA-256 {found}, expected {sha256}: "
            "install course_utils again"
        )
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"][what]
    return safetensors.torch.load(content), json.loads(header)


def _read_file(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own, and torch.load a dozen: all say that the file is no good
        kind = "safetensors file" if path.suffix == ".safetensors" else "file of torch.save with weights only"
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) cannot be read as a {kind}: it is truncated, damaged or of "
            f"another kind. Download or save it again ({type(error).__name__})"
        ) from error


def _unwrapped(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in what was read, out of the wrappings that training scripts put around it and its names."""
    for wrapping in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{where} holds no state dict: expected tensors by name, found a {type(content).__name__}")
    state = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): tensor for key, tensor in content.items()}  # torch.compile
    state.pop("n_averaged", None)  # how many steps torch's AveragedModel has seen
    if state and all(key.startswith("module.") for key in state):  # DistributedDataParallel, AveragedModel
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _download(name: str) -> Path:
    """Fetch a model's config and weights from the Hugging Face Hub (or find them in its cache)."""
    import huggingface_hub

    try:
        config = huggingface_hub.hf_hub_download(name, "config.json")
        huggingface_hub.hf_hub_download(name, FILES[0])
    except Exception as error:  # no network, no such model, no such file: the Hub's client has a dozen kinds
        raise OSError(
            f"{name!r} is no local path and could not be fetched from the Hugging Face Hub ({type(error).__name__}): "
            "check the name and the network, or download the model elsewhere and give its directory"
        ) from error
    return Path(config).parent

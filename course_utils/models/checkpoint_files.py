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

FILES = ("model.safetensors", "pytorch_model.bin")


def read_checkpoint(source: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The tensors of a checkpoint by name, the fields its ``config.json`` states, and what to call it.

    Raises:
        FileNotFoundError: no such path, and no Hub name either.
        OSError: the Hub cannot be reached or has no such model.
        ValueError: a broken file, or one that holds no tensors by name.
    """
    if isinstance(source, nn.Module):
        raise ValueError(f"a {type(source).__name__} is a model: give its model.state_dict()")
    if isinstance(source, Mapping):
        return _tensors(source, "the state dict"), {}, "the state dict"
    path = Path(source)
    if not path.exists():
        if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise FileNotFoundError(f"there is no file or directory {str(source)!r}: give the path of a checkpoint")
        path = download(source)
    said: dict[str, Any] = {}
    if path.is_dir():
        config = path / "config.json"
        if not (file := next((path / name for name in FILES if (path / name).exists()), None)):
            raise FileNotFoundError(f"directory {path.name!r} holds none of {', '.join(FILES)}: name the file itself")
        said, path = _read_config(config) if config.exists() else {}, file
    return _tensors(_read_file(path), path.name), said, path.name


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


def _tensors(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in what was read, out of the wrappings that training scripts put around it."""
    for wrapping in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{where} holds no state dict: expected tensors by name, found a {type(content).__name__}")
    wrapped = content and all(key.startswith("module.") for key in content)  # saved from DistributedDataParallel
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in content.items()}


def fill(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Give a model on the meta device exactly these weights, or say what is missing, left over or of another shape."""
    ours = model.state_dict()
    faults = [f"{name} is missing" for name in ours.keys() - weights.keys()]
    faults += [f"{name} is left over" for name in weights.keys() - ours.keys()]
    faults += [
        f"{name} has shape {list(weights[name].shape)} where {list(ours[name].shape)} is wanted"
        for name in ours.keys() & weights.keys()
        if ours[name].shape != weights[name].shape
    ]
    if faults:
        raise ValueError(f"{where} does not fit the model (by this course's names): {'; '.join(sorted(faults))}")
    model.load_state_dict(weights, assign=True)


def _read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` of transformers or timm says beyond the weights, as fields of a ViTConfig."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.parent.name}/{path.name} is no JSON ({error}): save or download it again") from error
    if "architecture" in config:  # timm
        pool = {"token": "cls", "avg": "mean", None: None}.get(config.get("global_pool"), "unknown")
        if pool == "unknown":
            raise ValueError(f"config.json says global_pool {config['global_pool']!r}, and this ViT pools token or avg")
        height, width = config.get("pretrained_cfg", config).get("input_size", (None, None, None))[1:]
        size = (height, width) if height else None
        said = {"pool": pool, "image_size": size, "heads": config.get("model_args", {}).get("num_heads")}
        return {name: value for name, value in said.items() if value is not None}
    if config.get("model_type") != "vit":
        raise ValueError(f'config.json says model_type {config.get("model_type")!r}, and only "vit" is read here')
    if (activation := config.get("hidden_act", "gelu")) != "gelu":
        raise ValueError(f'config.json says hidden_act {activation!r}, and this encoder has "gelu" alone')
    theirs = {
        "heads": ("num_attention_heads", 12),  # config.json may leave out what equals the library's default
        "norm_eps": ("layer_norm_eps", 1e-12),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
        "image_size": ("image_size", 224),
    }
    said = {ours: config.get(name, default) for ours, (name, default) in theirs.items()}
    if isinstance(said["image_size"], list):
        said["image_size"] = tuple(said["image_size"])
    return said


def download(name: str) -> Path:
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

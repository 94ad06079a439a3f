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
# What transformers calls a checkpoint, in the order of preference; an index says which of several files holds what.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX = ".index.json"
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
    path = Path(source)
    if not path.exists():
        if not isinstance(source, str) or not _may_be_hub_name(source):
            raise FileNotFoundError(f"there is no file or directory {str(source)!r}: give the path of a checkpoint")
        path = _download(source)
    where = path.name
    if (folder := path).is_dir():
        if not (files := [folder / name for name in FILES if (folder / name).exists()]):
            raise FileNotFoundError(
                f"directory {folder.name!r} holds none of {', '.join(FILES[::2])}, nor an index of several: name the "
                "file itself"
            )
        path, where = files[0], f"{folder.name}/{files[0].name}"
    if path.name.endswith(INDEX):
        return _read_shards(path), _config_beside(path), where
    return _unwrapped(_read_file(path), where), _config_beside(path), where


def _config_beside(path: Path) -> dict[str, Any]:
    """The content of the ``config.json`` in the folder of the weights, if there is one."""
    if not (file := path.parent / "config.json").exists():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.parent.name}/config.json is no JSON ({error}): save or download it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path.parent.name}/config.json holds no object: save or download it again")
    return config


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index names; exactly those that it says."""
    placed = _weight_map(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(placed.values())):
        if not (shard := index.parent / name).exists():
            raise FileNotFoundError(f"{index.name} names {name}, which is not beside it: download all of the files")
        state |= _unwrapped(_read_file(shard), name)
    if (missing := placed.keys() - state.keys()) or state.keys() - placed.keys():
        some = sorted(missing or state.keys() - placed.keys())[0]
        raise ValueError(
            f"{index.name} and its files do not fit: {some} is {'missing' if missing else 'in none of its lines'}. "
            "Download all of them again"
        )
    return state


def _weight_map(index: Path) -> dict[str, str]:
    """``tensor -> file`` of an index. Files are names in its own folder, and nothing else."""
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name) for name in placed.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index.name} says of no tensor where it lies ({type(error).__name__}): download it again"
        ) from None
    if strange := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index.name} names the file {strange[0]!r}, expected one of its own folder: do not use it")
    return {str(key): str(name) for key, name in placed.items()}


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
        size = path.stat().st_size
        if "unsupported global" in str(error).lower():
            raise ValueError(
                f"{path.name} ({size} bytes) cannot be read as a file of torch.save with weights only: it holds more "
                "than weights, and loading that can run a stranger's code. Save model.state_dict() where it was made, "
                "or take a .safetensors file"
            ) from error
        kind = "safetensors file" if path.suffix == ".safetensors" else "file of torch.save with weights only"
        raise ValueError(
            f"{path.name} ({size} bytes) cannot be read as a {kind}: it is truncated, damaged or of another kind. "
            f"Download or save it again ({type(error).__name__})"
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


def _may_be_hub_name(source: str) -> bool:
    """``owner/model``, or a name from the time before there were owners, such as ``bert-base-chinese``."""
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) is not None
    return is_name and Path(source).suffix not in (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".json", ".npz")


def _download(name: str) -> Path:
    """Fetch a model's config and weights from the Hugging Face Hub (or find them in its cache): its folder."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(huggingface_hub.hf_hub_download(name, "config.json")).parent
        unasked: LocalEntryNotFoundError | None = None
        for file in FILES:
            try:
                found = Path(huggingface_hub.hf_hub_download(name, file))
            except LocalEntryNotFoundError as error:  # not cached, and no network to ask: another one may be cached
                unasked = error
                continue
            except EntryNotFoundError:
                continue
            if file.endswith(INDEX):
                for shard in sorted(set(_weight_map(found).values())):
                    huggingface_hub.hf_hub_download(name, shard)
            return folder
        if unasked is not None:
            raise unasked
    except Exception as error:  # no network, no such model, no config: the Hub's client has a dozen kinds
        raise OSError(
            f"{name!r} is no local path and could not be fetched from the Hugging Face Hub ({type(error).__name__}): "
            "check the name and the network, or download the model elsewhere and give its directory"
        ) from error
    raise OSError(f"{name!r} has on the Hugging Face Hub none of {', '.join(FILES)}: choose a model that has weights")

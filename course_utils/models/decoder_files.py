"""Decoders in and out: the folders in which transformers keeps a Llama, Mistral, Qwen2 or Qwen3.

A folder holds ``config.json`` and the weights as safetensors: one file, or several and an index that says which tensor
lies where. The four families have the same names of tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from torch import Tensor

from course_utils.files import atomic_write
from course_utils.models.decoder import Decoder
from course_utils.models.decoder_families import config_from_transformers, config_to_transformers

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_NAMES = {"word_embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}  # ours to theirs
_PARTS = {
    "norm1": "input_layernorm",
    **{f"attention.{p}_{kind}": f"self_attn.{p}_{kind}" for p in "qk" for kind in ("proj", "norm")},
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    **{f"mlp.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
_THEIR_NAMES = {theirs: ours for ours, theirs in _NAMES.items()}
_THEIR_PARTS = {theirs: ours for ours, theirs in _PARTS.items()}


def load_decoder(
    source: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Decoder:
    """A :class:`Decoder` with the weights of a folder of transformers, or of a model of the Hugging Face Hub.

    The model is built without memory and filled tensor by tensor: at no time are there two copies of it.

    Args:
        source: the folder, or a name on the Hub.
        dtype: of the weights; None for that of the file.
        changes: other fields of :class:`DecoderConfig`, such as ``dropout``.

    Raises:
        FileNotFoundError: no such folder, or no safetensors in it.
        OSError: the Hub cannot be reached or has no such model.
        ValueError: another kind of model, an option that this decoder does not have, tensors that are missing, left
            over or of another shape (listed).
    """
    folder = _folder(source)
    config = replace(config_from_transformers(_read_json(folder / "config.json"), folder.name), **changes)
    with torch.device("meta"):
        model = Decoder(config)
    wanted = {name: p.shape for name, p in model.state_dict().items() if not (config.tied and name == "head.weight")}
    faults: list[str] = []
    for name, shape, read in _tensors(folder):
        if name not in wanted:
            if not (config.tied and name == "head.weight"):
                faults.append(f"{name} is left over")
        elif shape != wanted[name]:
            faults.append(f"{name} has shape {list(shape)} where {list(wanted.pop(name))} is wanted")
        else:
            # A copy, so that no weight keeps the mapped file alive.
            tensor = read().to(device, dtype, copy=True)
            model.load_state_dict({name: tensor}, strict=False, assign=True)
            del wanted[name]
    faults += [f"{name} is missing" for name in wanted]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(
            f"{folder.name} does not fit its own config.json in {len(faults)} places (by this course's names): "
            f"{'; '.join(faults[:8])}{more}. Download it again, whole"
        )
    if config.tied:
        model.head.weight = model.word_embedding.weight
    return model


def save_decoder(
    model: Decoder, folder: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int = 5 * 10**9
) -> None:
    """Write a decoder as a folder that ``transformers.AutoModelForCausalLM.from_pretrained`` opens.

    Args:
        folder: made if it is not there. Files of the same names are replaced, each when its new content is whole; the
            config comes last.
        dtype: of the weights in the file; by default that of the model.
        shard_bytes: the most bytes of a file of weights; a larger model takes several, and an index.

    Raises:
        ValueError: a combination of options that none of the four families has.
    """
    config = config_to_transformers(model.config)  # before anything is written
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {_to_theirs(name): p for name, p in model.state_dict().items()}
    if model.config.tied:
        del state["lm_head.weight"]
    state = {name: p.detach().to("cpu", dtype or p.dtype).contiguous() for name, p in state.items()}
    plan = split_torch_state_dict_into_shards(state, max_shard_size=shard_bytes)
    for file, names in plan.filename_to_tensors.items():
        _write(folder / file, safetensors.torch.save({name: state[name] for name in names}, {"format": "pt"}))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write(folder / INDEX, _json(index))
    # A reader prefers one file to an index: what a larger or smaller model left behind would be read for this one.
    (folder / (WEIGHTS if plan.is_sharded else INDEX)).unlink(missing_ok=True)
    stored = dtype or model.word_embedding.weight.dtype
    _write(folder / "config.json", _json(config | {"torch_dtype": str(stored).removeprefix("torch.")}))


def _to_theirs(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if layer := re.match(r"decoder\.layers\.(\d+)\.", stem):
        return f"model.layers.{layer[1]}.{_PARTS[stem[layer.end() :]]}.{leaf}"
    return f"{_NAMES[stem]}.{leaf}"


def _to_ours(name: str) -> str:
    """Our name; theirs, where this decoder has nothing of the kind."""
    stem, _, leaf = name.rpartition(".")
    stem = stem if stem.startswith(("model.", "lm_head")) else f"model.{stem}"  # a body saved without its head
    if layer := re.match(r"model\.layers\.(\d+)\.", stem):
        part = _THEIR_PARTS.get(stem[layer.end() :])
        return name if part is None else f"decoder.layers.{layer[1]}.{part}.{leaf}"
    return f"{_THEIR_NAMES[stem]}.{leaf}" if stem in _THEIR_NAMES else name


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Size, Callable[[], Tensor]]]:
    """Our name, the shape, and what reads it, of each tensor in turn: no more than one lies in memory."""
    for file in _weight_files(folder):
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(safetensors.safe_open(file, framework="pt"))
            except safetensors.SafetensorError as error:
                raise ValueError(
                    f"{folder.name}/{file.name} ({file.stat().st_size} bytes) is truncated or damaged: download it "
                    f"again ({error})"
                ) from error
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                if not name.endswith("rotary_emb.inv_freq"):  # follows from the config; old files have it all the same
                    shape = torch.Size(opened.get_slice(name).get_shape())
                    yield _to_ours(name), shape, partial(opened.get_tensor, name)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise FileNotFoundError(
            f"directory {folder.name!r} holds neither {WEIGHTS} nor {INDEX}: save the model as safetensors "
            "(model.save_pretrained does)"
        )
    files = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    if lost := [file for file in files if not (folder / file).exists()]:
        raise FileNotFoundError(
            f"{folder.name}/{INDEX} names {len(files)} files, and {', '.join(lost)} is not there: download it too"
        )
    return [folder / file for file in files]


def _folder(source: str | Path) -> Path:
    if (path := Path(source)).is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        raise FileNotFoundError(f"{str(source)!r} is no folder: give that of config.json and the weights")
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # no network, no such model: the Hub's client has a dozen kinds
        raise OSError(
            f"{str(source)!r} is no local folder and could not be fetched from the Hugging Face Hub "
            f"({type(error).__name__}): check the name and the network, or download it elsewhere and give its folder"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"directory {file.parent.name!r} holds no {file.name}: it belongs to the model"
        ) from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file.parent.name}/{file.name} is no JSON ({error}): save or download it again") from error


def _write(file: Path, content: bytes) -> None:
    with atomic_write(file) as opened:
        opened.write(content)


def _json(tree: Mapping[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2) + "\n").encode()

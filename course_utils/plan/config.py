"""The sizes in a ``config.json`` of transformers, by the names that each family gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from course_utils.plan.layer import Experts, Latent

Config = Mapping[str, Any]


def sizes(config: Config | str | Path) -> dict[str, Any]:
    """The fields of a :class:`course_utils.plan.decoder.Decoder`.

    Args:
        config: the file, the folder that it lies in, or what is in it. Read are the families of :data:`FAMILIES`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object, is of another family, or lacks a size.
    """
    where = "the configuration"
    if not isinstance(config, Mapping):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        where, config = str(path), _read(path)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"{where} says model_type {family!r}, and the sizes of {', '.join(FAMILIES)} are read: "
            "for another model give course_utils.plan.decoder.Decoder its sizes"
        )
    said = {name: value for name, value in config.items() if value is not None}
    try:
        found = FAMILIES[family]({**_SILENT.get(family, {}), **said})
    except KeyError as missing:
        raise ValueError(f"{where} has no {missing}, which a {family} needs: is the file whole?") from None
    if faults := [name for name, value in found.items() if type(value) not in _KINDS.get(name, (int, type(None)))]:
        raise ValueError(f"{where}: {faults[0]} is {found[faults[0]]!r}, and a whole number is expected")
    return {"name": str(config.get("_name_or_path") or family)} | found


# What transformers takes where a file is silent, beside what all families have in common.
_SILENT: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "mixtral": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"head_dim": 128, "max_position_embeddings": 32768},
    "qwen3_moe": {"num_key_value_heads": 4, "max_position_embeddings": 32768},
}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("gated", "tied", "qk_norm"), (bool,)),
    **dict.fromkeys(("positions", "norm", "biases"), (str,)),
    "experts": (Experts, type(None)),
    "latent": (Latent, type(None)),
}


def _read(path: Path) -> Config:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give a model's config.json, or the folder it lies in")
    try:
        found = json.loads(path.read_text("utf8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, and a config.json holds an object")
    return found


def _gpt2(config: Config) -> dict[str, Any]:
    return {
        "layers": config["n_layer"],
        "width": config["n_embd"],
        "heads": config["n_head"],
        "vocab": config["vocab_size"],
        "length": config["n_positions"],
        "mlp_width": config.get("n_inner"),
        "tied": config.get("tie_word_embeddings", True),
    }


def _llama(config: Config) -> dict[str, Any]:
    """What Llama and its descendants have in common."""
    return {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("num_key_value_heads"),
        "head_width": config.get("head_dim"),
        "mlp_width": config["intermediate_size"],
        "vocab": config["vocab_size"],
        "length": config["max_position_embeddings"],
        "positions": "rotary",
        "gated": True,
        "norm": "rms",
        "biases": "none",
        "tied": config.get("tie_word_embeddings", False),
    }


def _plain_llama(config: Config) -> dict[str, Any]:
    biases = (config.get("attention_bias", False), config.get("mlp_bias", False))
    if biases[0] != biases[1]:
        raise ValueError(f"attention_bias {biases[0]} and mlp_bias {biases[1]} differ: a Decoder has both or none")
    return _llama(config) | {"biases": "all" if biases[0] else "none"}


def _qwen3(config: Config) -> dict[str, Any]:
    if config.get("attention_bias"):
        raise ValueError("attention_bias is true: biases of attention alone are read for qwen2 only")
    return _llama(config) | {"qk_norm": True}


def _qwen3_moe(config: Config) -> dict[str, Any]:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ValueError("mlp_only_layers or decoder_sparse_step mixes layers: experts in all layers are read")
    number = config["num_experts"] if "num_experts" in config else config["num_local_experts"]  # before and since 5.0
    experts = Experts(number, config["num_experts_per_tok"], config["moe_intermediate_size"])
    return _qwen3(config) | {"experts": experts}


def _mixtral(config: Config) -> dict[str, Any]:
    experts = Experts(config["num_local_experts"], config["num_experts_per_tok"], config["intermediate_size"])
    return _llama(config) | {"experts": experts}


def _deepseek_v3(config: Config) -> dict[str, Any]:
    experts = Experts(
        number=config["n_routed_experts"],
        active=config["num_experts_per_tok"],
        width=config["moe_intermediate_size"],
        shared=config["n_shared_experts"],
        dense_layers=config["first_k_dense_replace"],
        correction=True,
    )
    latent = Latent(
        query_rank=config["q_lora_rank"],
        key_value_rank=config["kv_lora_rank"],
        rotary=config["qk_rope_head_dim"],
        plain=config["qk_nope_head_dim"],
        value=config["v_head_dim"],
    )
    return _llama(config) | {"kv_heads": None, "head_width": None, "experts": experts, "latent": latent}


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "llama": _plain_llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "qwen2": lambda config: _llama(config) | {"biases": "qkv"},
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v3": _deepseek_v3,
}

"""What a ``config.json`` of transformers says of a Llama, Mistral, Qwen2 or Qwen3, and how to say it.

The four families have the same parts; they differ in what a config may say, and in what it means to be silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.rotary import Rope

# What the library's classes take where a config is silent, by model_type.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"head_dim": 128, "max_position_embeddings": 32768},
}
_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def config_from_transformers(said: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """Our config of what a ``config.json`` of transformers 4 or 5 says.

    Raises:
        ValueError: another kind of model, or an option that this decoder does not have.
    """
    family = said.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"{where}: config.json says model_type {family!r}, and this decoder is {', '.join(FAMILIES)}: take one of "
            "these, or transformers itself"
        )
    said = {**FAMILIES[family], **{name: value for name, value in said.items() if value is not None}}
    if (act := said.get("hidden_act", "silu")) != "silu":
        raise ValueError(f'{where}: config.json says hidden_act {act!r}, and only "silu" is read here')
    width, heads, depth = said["hidden_size"], said["num_attention_heads"], said["num_hidden_layers"]
    bias = bool(said.get("attention_bias", False))
    return DecoderConfig(
        vocab_size=said["vocab_size"],
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=said.get("num_key_value_heads", heads),
        head_width=said.get("head_dim", width // heads),
        mlp_width=said["intermediate_size"],
        max_length=said["max_position_embeddings"],
        rope=_rope(said, where),
        norm_eps=said.get("rms_norm_eps", 1e-6),
        qkv_bias=bias or family == "qwen2",
        out_bias=bias and family != "qwen2",
        mlp_bias=bool(said.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        sliding_window=_window(said, family, depth, where),
        tied=bool(said.get("tie_word_embeddings", False)),
    )


def config_to_transformers(config: DecoderConfig) -> dict[str, Any]:
    """What ``config.json`` has to say, so that transformers 4 and 5 build this decoder.

    Raises:
        ValueError: a combination of options that none of the four families has.
    """
    family = _family(config)
    rope = config.rope
    scaling: dict[str, Any] | None = None
    if rope.scaling != "none":
        scaling = {"rope_type": rope.scaling, "factor": rope.factor}
    if scaling is not None and rope.scaling in ("llama3", "yarn"):
        scaling |= {"original_max_position_embeddings": rope.trained_length}
    if scaling is not None and rope.scaling == "llama3":
        scaling |= {"low_freq_factor": rope.slow, "high_freq_factor": rope.fast}
    if scaling is not None and rope.scaling == "yarn":
        scaling |= {"beta_slow": rope.slow, "beta_fast": rope.fast, "attention_factor": rope.amplitude}
    said = {
        "architectures": [f"{_CLASSES[family]}ForCausalLM"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "rope_theta": rope.theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": config.out_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family in ("qwen2", "qwen3"):
        kinds = ["full_attention" if config.sliding_window is None else "sliding_attention"] * config.depth
        windowed = config.sliding_window is not None
        said |= {"use_sliding_window": windowed, "max_window_layers": 0, "layer_types": kinds}
    if family != "llama":
        said["sliding_window"] = config.sliding_window
    return said


def _family(config: DecoderConfig) -> str:
    """The first family that has all that the config asks for."""
    head = config.head_width == config.width // config.heads
    fits = {
        "llama": not config.qk_norm and config.qkv_bias == config.out_bias and config.sliding_window is None,
        "mistral": not (config.qk_norm or config.qkv_bias or config.out_bias or config.mlp_bias),
        "qwen2": not config.qk_norm and config.qkv_bias and not (config.out_bias or config.mlp_bias) and head,
        "qwen3": config.qk_norm and config.qkv_bias == config.out_bias and not config.mlp_bias,
    }
    if (family := next((name for name, fit in fits.items() if fit), None)) is None:
        asked = [name for name in ("qk_norm", "qkv_bias", "out_bias", "mlp_bias") if getattr(config, name)]
        raise ValueError(
            f"no family of transformers that is known here has {', '.join(asked)} together (sliding_window "
            f"{config.sliding_window}, head_width {config.head_width}): {', '.join(fits)} were tried"
        )
    return family


def _rope(said: Mapping[str, Any], where: str) -> Rope:
    """transformers 5 has ``rope_parameters``; 4 has ``rope_theta`` and ``rope_scaling``."""
    told = {**(said.get("rope_scaling") or {}), **(said.get("rope_parameters") or {})}
    kind = told.get("rope_type", told.get("type", "default"))
    kinds = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
    if kind not in kinds or told.get("partial_rotary_factor", 1.0) != 1.0 or told.get("mscale"):
        raise ValueError(f"{where}: config.json says {told} of its positions, and only {', '.join(kinds)} are read")
    slow, fast = (told.get("beta_slow") or 1.0, told.get("beta_fast") or 32.0)
    if kind == "llama3":
        slow, fast = told["low_freq_factor"], told["high_freq_factor"]
    return Rope(
        theta=told.get("rope_theta", said.get("rope_theta", 10_000.0)),
        scaling=kinds[kind],  # type: ignore[arg-type]
        factor=told.get("factor") or 1.0,
        trained_length=told.get("original_max_position_embeddings") or said["max_position_embeddings"],
        slow=float(slow),
        fast=float(fast),
        attention_factor=told.get("attention_factor"),
    )


def _window(said: Mapping[str, Any], family: str, depth: int, where: str) -> int | None:
    """One window for all layers, or none; Qwen can give it to the last layers alone."""
    if family == "llama" or (family != "mistral" and not said.get("use_sliding_window")):
        return None
    window = said.get("sliding_window", 4096)
    first = said.get("max_window_layers", 28)
    kinds = said.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(depth)]
    if family == "mistral" or set(kinds) == {"sliding_attention"}:
        return window
    if set(kinds) == {"full_attention"}:
        return None
    raise ValueError(f"{where}: config.json gives a window to some of its layers alone, and here all have one or none")

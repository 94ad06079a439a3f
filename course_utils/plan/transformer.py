"""Decoders that people train, on paper: sizes, the FLOPs of a training step, and the share of the peak it reaches.

``s`` tokens a sequence, ``B`` sequences a step, ``l`` layers, ``h`` width, ``V`` vocabulary. Matrix products only, two
FLOPs to a multiply-accumulate. Scores are counted for all pairs of tokens, as the papers do, also where a kernel skips
the half that a causal mask hides.

Sources: Narayanan et al. 2021, arXiv:2104.04473, appendix (FLOPs with full recomputation); Korthikanti et al. 2022,
arXiv:2205.05198, appendix A (without); Kaplan et al. 2020, arXiv:2001.08361 (6 N per token); Chowdhery et al. 2022,
arXiv:2204.02311, appendix B (model FLOPs utilisation). Sizes: Grattafiori et al. 2024, arXiv:2407.21783, Table 3 (Llama
3); Yang et al. 2025, arXiv:2505.09388, Tables 1 and 2 (Qwen3); Jiang et al. 2023, arXiv:2310.06825 (Mistral); Jiang et
al. 2024, arXiv:2401.04088 (Mixtral); DeepSeek-AI 2024, arXiv:2412.19437, section 4.2; the rest from each model's
published config.json. ``length`` is that of most of the pre-training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from course_utils.plan.decoder import Decoder
from course_utils.plan.flops import FLOPS_PER_MAC, linear_macs
from course_utils.plan.layer import Experts, Latent, Layer

Recompute = Literal["none", "selective", "pointwise", "alternate", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "pointwise", "alternate", "full")

GPT2_SMALL = Decoder(name="GPT-2 small", layers=12, width=768, heads=12, vocab=50257, length=1024)
GPT2_XL = Decoder(name="GPT-2 XL", layers=48, width=1600, heads=25, vocab=50257, length=1024)
GPT3_6B = Decoder(name="GPT-3 6.7B", layers=32, width=4096, heads=32, vocab=50257, length=2048)
GPT3 = Decoder(name="GPT-3", layers=96, width=12288, heads=96, vocab=51200, length=2048)
BLOOM = Decoder(
    name="BLOOM", layers=70, width=14336, heads=112, vocab=250880, length=2048, positions="alibi", embedding_norm=True
)
MT_NLG = Decoder(name="MT-NLG", layers=105, width=20480, heads=128, vocab=51200, length=2048)

_LLAMA: dict[str, Any] = {"positions": "rotary", "gated": True, "norm": "rms", "biases": "none", "tied": False}
_LLAMA_3 = _LLAMA | {"kv_heads": 8, "vocab": 128256, "length": 8192}
_QWEN_3 = _LLAMA | {"qk_norm": True, "head_width": 128, "vocab": 151936, "length": 4096}

LLAMA_1B = Decoder(name="Llama 3.2 1B", layers=16, width=2048, heads=32, mlp_width=8192, **_LLAMA_3 | {"tied": True})
LLAMA_8B = Decoder(name="Llama 3.1 8B", layers=32, width=4096, heads=32, mlp_width=14336, **_LLAMA_3)
LLAMA_70B = Decoder(name="Llama 3.1 70B", layers=80, width=8192, heads=64, mlp_width=28672, **_LLAMA_3)
LLAMA_405B = Decoder(name="Llama 3.1 405B", layers=126, width=16384, heads=128, mlp_width=53248, **_LLAMA_3)
QWEN3_06B = Decoder(
    name="Qwen3 0.6B", layers=28, width=1024, heads=16, kv_heads=8, mlp_width=3072, **_QWEN_3 | {"tied": True}
)
QWEN3_8B = Decoder(name="Qwen3 8B", layers=36, width=4096, heads=32, kv_heads=8, mlp_width=12288, **_QWEN_3)
QWEN3_235B = Decoder(
    name="Qwen3 235B-A22B", layers=94, width=4096, heads=64, kv_heads=4, experts=Experts(128, 8, 1536), **_QWEN_3
)
MISTRAL_7B = Decoder(
    name="Mistral 7B", layers=32, width=4096, heads=32, kv_heads=8, mlp_width=14336, vocab=32000, length=8192, **_LLAMA
)
MIXTRAL = Decoder(
    name="Mixtral 8x7B", layers=32, width=4096, heads=32, kv_heads=8, experts=Experts(8, 2, 14336), vocab=32000,
    length=32768, **_LLAMA,
)  # fmt: skip
DEEPSEEK_V3 = Decoder(
    name="DeepSeek-V3", layers=61, width=7168, heads=128, mlp_width=18432, vocab=129280, length=4096, **_LLAMA,
    experts=Experts(number=256, active=8, width=2048, shared=1, dense_layers=3, correction=True),
    latent=Latent(query_rank=1536, key_value_rank=512, rotary=64, plain=128, value=128),
)  # fmt: skip
DECODERS = (
    *(GPT2_SMALL, GPT2_XL, GPT3_6B, GPT3, BLOOM, MT_NLG),
    *(LLAMA_1B, LLAMA_8B, LLAMA_70B, LLAMA_405B, QWEN3_06B, QWEN3_8B, QWEN3_235B, MISTRAL_7B, MIXTRAL, DEEPSEEK_V3),
)


def layer_flops(model: Decoder, layer: Layer, queries: int, keys: int) -> dict[str, int]:
    """FLOPs of one layer forward, by part, for so many tokens of which each looks at ``keys`` tokens."""
    macs = dict.fromkeys(("qkv", "scores", "out", "mlp"), 0)
    for matrix in layer.matrices:
        found = matrix.active * linear_macs(queries, matrix.inputs, matrix.outputs)
        macs[matrix.part] = macs.get(matrix.part, 0) + found
    macs["scores"] = queries * keys * model.heads * (layer.key + layer.value)
    return {part: FLOPS_PER_MAC * count for part, count in macs.items()}


def forward_flops(model: Decoder, sequences: int = 1, length: int | None = None) -> dict[str, int]:
    """FLOPs of a forward pass, by part: qkv, scores, out, mlp, router (all layers together) and head.

    For GPT their sum is B (l (24 s h^2 + 4 s^2 h) + 2 s h V).
    """
    s = length or model.length
    parts: dict[str, int] = {}
    for layer, count in model.kinds:
        for part, flops in layer_flops(model, layer, s, s).items():
            parts[part] = parts.get(part, 0) + sequences * count * flops
    return parts | {"head": sequences * FLOPS_PER_MAC * linear_macs(s, model.width, model.vocab)}


def step_flops(model: Decoder, sequences: int, recompute: Recompute = "none", length: int | None = None) -> int:
    """FLOPs of a training step: forward, backward at twice that, and what is computed a second time.

    ``"none"``: the *model* FLOPs, which utilisation is measured by; for GPT 72 B s l h^2 (1 + s/6h + V/12lh).
    ``"selective"``: the scores again, for GPT 4 B l s^2 h more. ``"pointwise"``: no product again.
    ``"alternate"``: every second matrix product again. ``"full"``: all layers again, but not the head; for GPT
    96 B s l h^2 (1 + s/6h + V/16lh).
    """
    return 3 * sum(forward_flops(model, sequences, length).values()) + sequences * sum(
        count * again_flops(model, layer, length or model.length, recompute) for layer, count in model.kinds
    )


def again_flops(model: Decoder, layer: Layer, length: int, recompute: Recompute) -> int:
    """FLOPs of a layer that backward computes a second time, for one sequence."""
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute {recompute!r} is unknown: choose {' or '.join(RECOMPUTE)}")
    if recompute == "alternate":
        return sum(layer_flops(model, replace(layer, matrices=layer.matrices[1::2]), length, 0).values())
    parts = layer_flops(model, layer, length, length)
    return {"none": 0, "selective": parts["scores"], "pointwise": 0, "full": sum(parts.values())}[recompute]


def six_n(parameters: int, tokens: int) -> int:
    """6 N D: two FLOPs per parameter and token forward, four backward. Leaves out the scores, and counts tables that
    are looked up, not multiplied, as if they were. With full recomputation it is 8 N D."""
    return 6 * parameters * tokens


def utilisation(flops: float, seconds: float, devices: int, peak: float) -> float:
    """FLOPs reached as a share of the peak: with a step's *model* FLOPs the MFU, with recomputation added the HFU.

    Args:
        peak: FLOP/s of one device, for the number format that the products use.
    """
    return flops / (seconds * devices * peak)

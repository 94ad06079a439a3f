"""Parameters and FLOPs of a decoder against a real GPT-2 and BLOOM that torch counts, and against published figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from course_utils.plan.layer import Experts
from course_utils.plan.transformer import (
    BLOOM,
    DEEPSEEK_V3,
    GPT2_SMALL,
    GPT2_XL,
    GPT3,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
    MISTRAL_7B,
    MIXTRAL,
    MT_NLG,
    QWEN3_235B,
    Decoder,
    forward_flops,
    six_n,
    step_flops,
    utilisation,
)

SIZES: dict[str, int] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 56, "vocab_size": 50, "max_position_embeddings": 64,
}  # fmt: skip
ODD = Decoder(name="odd", layers=3, width=24, heads=4, vocab=37, length=11)


def real(model: Decoder) -> torch.nn.Module:
    """The same sizes in transformers, without memory for its weights."""
    with torch.device("meta"):
        if model.positions == "alibi":
            config = transformers.BloomConfig(
                vocab_size=model.vocab, hidden_size=model.width, n_layer=model.layers, n_head=model.heads
            )
            return transformers.BloomForCausalLM(config)
        sizes = {"n_embd": model.width, "n_layer": model.layers, "n_head": model.heads}
        config = transformers.GPT2Config(vocab_size=model.vocab, n_positions=model.length, **sizes)
        config.tie_word_embeddings = model.tied
        config._attn_implementation = "eager"
        return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("model", [ODD, replace(ODD, tied=False), GPT2_SMALL, GPT2_XL, BLOOM], ids=lambda m: m.name)
def test_parameters_are_those_of_a_real_model(model: Decoder) -> None:
    assert model.parameters == sum(p.numel() for p in real(model).parameters())


def test_published_parameters() -> None:
    assert BLOOM.parameters == 176_247_271_424
    assert BLOOM.layer_parameters == 2_466_437_120
    assert BLOOM.vocab * BLOOM.width == 3_596_615_680
    assert round(GPT3.parameters / 1e9) == 175
    published = {LLAMA_1B: 1_235_814_400, LLAMA_8B: 8_030_261_248, LLAMA_70B: 70_553_706_496}
    published |= {LLAMA_405B: 405_853_388_800, MIXTRAL: 46_702_792_704, DEEPSEEK_V3: 671_026_419_200}
    assert {model: model.parameters for model in published} == published
    active = {model: round(model.active_parameters / 1e9, 2) for model in (MIXTRAL, QWEN3_235B, DEEPSEEK_V3, LLAMA_8B)}
    assert list(active.values()) == [12.88, 22.19, 37.55, 8.03]
    assert round(MT_NLG.parameters / 1e9) == 530


@pytest.mark.parametrize("model", [ODD, replace(ODD, tied=False, width=40, layers=1)], ids=lambda m: m.name)
@pytest.mark.parametrize("sequences", [1, 3])
def test_flops_are_those_torch_counts(model: Decoder, sequences: int) -> None:
    network = real(model).to_empty(device="cpu")
    ids = torch.zeros(sequences, model.length, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = network(ids, use_cache=False).logits
    assert forward.get_total_flops() == sum(forward_flops(model, sequences).values())
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() + backward.get_total_flops() == step_flops(model, sequences)


GROUPED = Decoder(
    name="grouped", layers=2, width=32, heads=4, kv_heads=2, head_width=12, mlp_width=56, gated=True, norm="rms",
    biases="none", qk_norm=True, positions="rotary", vocab=37, length=11, tied=False,
)  # fmt: skip


@pytest.mark.parametrize("sequences", [1, 3])
def test_flops_of_todays_layers_are_those_torch_counts(sequences: int) -> None:
    config = transformers.Qwen3Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        intermediate_size=56, vocab_size=37, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    network = transformers.Qwen3ForCausalLM(config)
    assert GROUPED.parameters == sum(p.numel() for p in network.parameters())
    ids = torch.zeros(sequences, GROUPED.length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = network(ids, use_cache=False).logits
    # Some versions multiply positions by frequencies with a matrix product.
    rotation = sum(counter.get_flop_counts().get("Qwen3ForCausalLM.model.rotary_emb", {}).values())
    assert counter.get_total_flops() - rotation == sum(forward_flops(GROUPED, sequences).values())
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    done = counter.get_total_flops() - rotation + backward.get_total_flops()
    assert done == step_flops(GROUPED, sequences)


def test_a_token_pays_for_the_experts_that_it_meets() -> None:
    """Mixtral's layer: two of eight experts, each of the width of Mistral's MLP, and a router."""
    dense, mixed = forward_flops(MISTRAL_7B, length=1024), forward_flops(MIXTRAL, length=1024)
    assert mixed["mlp"] == 2 * dense["mlp"]
    assert mixed["router"] == 2 * 1024 * 32 * 8 * 4096
    assert {part: dense[part] for part in ("qkv", "scores", "out", "head")} == {
        part: mixed[part] for part in ("qkv", "scores", "out", "head")
    }
    v3 = step_flops(DEEPSEEK_V3, 1) / (6 * DEEPSEEK_V3.active_parameters * 4096)
    assert 1.1 < v3 < 1.25  # scores of 128 heads of 192 and 128 numbers, for all pairs


@pytest.mark.parametrize("model", [ODD, GPT3, BLOOM, MT_NLG], ids=lambda m: m.name)
def test_closed_forms(model: Decoder) -> None:
    s, l, h, v = model.length, model.layers, model.width, model.vocab  # noqa: E741
    none, full = step_flops(model, 7), step_flops(model, 7, "full")
    assert none == pytest.approx(72 * 7 * s * l * h**2 * (1 + s / (6 * h) + v / (12 * l * h)), rel=1e-12)
    assert full == pytest.approx(96 * 7 * s * l * h**2 * (1 + s / (6 * h) + v / (16 * l * h)), rel=1e-12)
    assert step_flops(model, 7, "selective") == none + 7 * l * 4 * s**2 * h


def test_bloom_as_logged() -> None:
    """104.70 s a step on 384 GPUs, which the project logged as 149.77 TFLOP/s each."""
    reached = utilisation(step_flops(BLOOM, 2048, "full"), 104.7, 384, 1e12)
    assert reached == pytest.approx(149.76, abs=0.005)
    assert 8 / 6 * six_n(BLOOM.parameters, 2048 * 2048) / 384 / 104.7 / 1e12 == pytest.approx(147.1, abs=0.05)


def test_six_n_is_a_little_low_for_long_sequences_and_never_far_off() -> None:
    for model in (GPT3, BLOOM, MT_NLG):
        assert 1 < step_flops(model, 1) / six_n(model.parameters, model.length) < 1.03
    assert step_flops(ODD, 2, length=1000) / six_n(ODD.parameters, 2000) > 5


CONFIGS = {
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16),
    "gpt2 inner": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16, n_inner=72),
    "llama": transformers.LlamaConfig(**SIZES),
    "llama tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=12),
    "llama biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**SIZES),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=12),
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SIZES, head_dim=12, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "deepseek_v3": transformers.DeepseekV3Config(
        **SIZES | {"num_key_value_heads": 4, "num_hidden_layers": 3}, n_routed_experts=8, num_experts_per_tok=3,
        moe_intermediate_size=24, n_shared_experts=2, first_k_dense_replace=1, q_lora_rank=20, kv_lora_rank=12,
        qk_rope_head_dim=4, qk_nope_head_dim=10, v_head_dim=6, n_group=2, topk_group=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_configuration_is_read_as_transformers_reads_it(config: Any, tmp_path: Path) -> None:
    """From the file that the library writes, and from what it holds."""
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config)
    count = sum(p.numel() for p in network.parameters())
    count += sum(b.numel() for name, b in network.named_buffers() if "correction" in name)
    assert Decoder.from_config(tmp_path).parameters == count
    assert Decoder.from_config(config.to_dict(), name="mine") == Decoder.from_config(tmp_path, name="mine")


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"])
def test_what_a_file_does_not_say_is_what_transformers_takes(family: str) -> None:
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 32, "intermediate_size": 64}
    sizes |= {"vocab_size": 50, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    sizes |= {"mixtral": {"num_local_experts": 4}, "qwen3_moe": {"num_experts": 4}}.get(family, {})
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **sizes))
    model = Decoder.from_config({"model_type": family, **sizes})
    assert model.parameters == sum(p.numel() for p in network.parameters())
    assert model.length == network.config.max_position_embeddings


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, ["'mamba'", "llama", "deepseek_v3"]),
        ({}, ["None"]),
        ({"model_type": "llama"}, ["num_hidden_layers", "llama"]),
        (transformers.LlamaConfig(**SIZES).to_dict() | {"hidden_size": "wide"}, ["width", "'wide'"]),
        (transformers.LlamaConfig(**SIZES, attention_bias=True).to_dict(), ["attention_bias", "mlp_bias"]),
        (transformers.LlamaConfig(**SIZES | {"num_key_value_heads": 3}).to_dict(), ["4 heads", "3 heads"]),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as raised:
        Decoder.from_config(config)
    assert all(word in str(raised.value) for word in words)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Decoder.from_config(tmp_path / "config.json")
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            Decoder.from_config(tmp_path)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="width 25 of odd cannot be split over 4 heads"):
        replace(ODD, width=25)
    with pytest.raises(ValueError, match="layers 0 of odd is no count"):
        replace(ODD, layers=0)
    with pytest.raises(ValueError, match="4 heads of odd cannot share 3"):
        replace(ODD, kv_heads=3)
    with pytest.raises(ValueError, match="3 of 2 experts"):
        replace(ODD, experts=Experts(2, 3, 10))
    with pytest.raises(ValueError, match=r"recompute 'some' is unknown: choose none or .* or full"):
        step_flops(ODD, 1, "some")  # type: ignore[arg-type]

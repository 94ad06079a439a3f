"""Parameters of models and of what is trained beside them, as counted by those who published them."""

from __future__ import annotations

from course_utils.plan.decoder import Decoder
from course_utils.plan.transformer import (
    BLOOM,
    DEEPSEEK_V3,
    GPT2_SMALL,
    GPT3,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
    MISTRAL_7B,
    MIXTRAL,
    MT_NLG,
    QWEN3_235B,
)
from course_utils.published.check import Check
from course_utils.tuning.cost import bottleneck_parameters, lora_parameters, prompt_parameters

MPT_TABLE = "mosaicml/llm-foundry, scripts/train/benchmarking/README.md"
CARD = "Hugging Face, metadata of the weights of {}"
LORA = "Hu et al. 2021, arXiv:2106.09685, Table 4"

EXACT = {  # counted to the last parameter
    LLAMA_1B: (1_235_814_400, CARD.format("meta-llama/Llama-3.2-1B")),
    LLAMA_8B: (8_030_261_248, CARD.format("meta-llama/Llama-3.1-8B")),
    LLAMA_70B: (70_553_706_496, CARD.format("meta-llama/Llama-3.1-70B")),
    LLAMA_405B: (405_853_388_800, CARD.format("meta-llama/Llama-3.1-405B")),
    MISTRAL_7B: (7_241_732_096, CARD.format("mistralai/Mistral-7B-v0.1")),
    MIXTRAL: (46_702_792_704, CARD.format("mistralai/Mixtral-8x7B-v0.1")),
    GPT2_SMALL: (124_439_808, CARD.format("openai-community/gpt2")),
    BLOOM: (176_247_271_424, "bigscience-workshop/bigscience, train/tr11-176B-ml/README.md"),
}


def mpt(size: str, layers: int, width: int, heads: int) -> Decoder:
    """A model of llm-foundry's table: GPT's shape, 50,368 rows, 2048 learned positions."""
    return Decoder(name=f"MPT {size}", layers=layers, width=width, heads=heads, vocab=50368, length=2048)


MPT = {
    mpt("7b", 32, 4096, 32): 6_658_859_008,
    mpt("13b", 40, 5120, 40): 12_853_954_560,
    mpt("30b", 48, 7168, 56): 29_975_214_080,
    mpt("70b", 80, 8192, 64): 64_862_437_376,
}
NEOX = Decoder(
    name="GPT-NeoX-20B", layers=44, width=6144, heads=64, vocab=50432, length=2048, positions="rotary", tied=False
)


def models() -> list[Check]:
    """How many parameters a model has."""
    found = [
        Check(f"{model.name}: parameters", source, count, model.parameters, within=0)
        for model, (count, source) in EXACT.items()
    ]
    found += [
        Check(f"{model.name}: parameters", MPT_TABLE, count, model.parameters, within=0) for model, count in MPT.items()
    ]
    v3, table = "DeepSeek-AI 2024, arXiv:2412.19437", DEEPSEEK_V3.vocab * DEEPSEEK_V3.width
    return [
        *found,
        Check("GPT-NeoX-20B: parameters", "EleutherAI/gpt-neox, log of the 20B run", 20_554_567_680, NEOX.parameters),
        Check("GPT-3: parameters", "Brown et al. 2020, arXiv:2005.14165, Table 2.1", 175e9, GPT3.parameters),
        Check("MT-NLG: parameters", "Smith et al. 2022, arXiv:2201.11990", 530e9, MT_NLG.parameters),
        Check("DeepSeek-V3: parameters", v3, 671e9, DEEPSEEK_V3.parameters, within=0.001),
        Check(
            *("DeepSeek-V3: active for a token", v3, 37e9, DEEPSEEK_V3.active_parameters - table),
            within=0.015,
            remark="37.55 billion with the token table, of which a token looks up one row; 36.6 without it",
        ),
        Check("Mixtral 8x7B: active", "arXiv:2401.04088", 13e9, MIXTRAL.active_parameters, within=0.01),
        Check("Qwen3 235B-A22B: parameters", "arXiv:2505.09388", 235e9, QWEN3_235B.parameters),
        Check("Qwen3 235B-A22B: active", "arXiv:2505.09388", 22e9, QWEN3_235B.active_parameters, within=0.01),
    ]


def tuned() -> list[Check]:
    """How many parameters are trained beside a frozen model."""
    d, layers = GPT3.width, GPT3.layers
    low_rank = {rank: 2 * layers * lora_parameters(rank, d, d) for rank in (1, 8)}
    medium, deberta = 24 * 2 * lora_parameters(4, 1024, 1024), 48 * 2 * lora_parameters(16, 1536, 1536)
    return [
        Check("LoRA on GPT-3, rank 1, queries and values", LORA, 4.7e6, low_rank[1], within=0.01),
        Check("LoRA on GPT-3, rank 8, queries and values", LORA, 37.7e6, low_rank[8], within=0.01),
        Check("PreEmbed on GPT-3, 264 tokens", LORA, 3.2e6, prompt_parameters(264, d), within=0.02),
        Check("Adapter-H on GPT-3, width 1", LORA, 7.1e6, 2 * layers * bottleneck_parameters(d, 1), within=0.01),
        Check("Adapter-H on GPT-3, width 8", LORA, 40.1e6, 2 * layers * bottleneck_parameters(d, 8), within=0.01),
        Check("LoRA on DeBERTa XXL, rank 16", "microsoft/LoRA, README", 4.7e6, deberta, within=0.01),
        Check(
            *("LoRA on GPT-2 medium, rank 4", "microsoft/LoRA, README and file", 0.35e6, medium),
            closes=False,
            remark="the file of that row, 1.5 MB in FP32, holds the 393,216 that the formula gives",
        ),
    ]  # fmt: skip

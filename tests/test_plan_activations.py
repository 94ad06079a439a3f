"""What a layer keeps: Korthikanti's table, the parts of any layer, autograd, and the peak of a whole step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.distributed.tensor.parallel import loss_parallel

from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.measure.live import LiveMemory
from course_utils.models import decoder
from course_utils.models.decoder_config import DecoderConfig
from course_utils.models.encoder import Encoder, EncoderConfig
from course_utils.plan.activations import kept_activations, layer_activations, logits
from course_utils.plan.decoder import Decoder
from course_utils.plan.machines import GIB
from course_utils.plan.memory import FP32_ADAM
from course_utils.plan.plan import Plan
from course_utils.plan.planner import gpu_memory
from course_utils.plan.transformer import (
    BLOOM,
    DEEPSEEK_V3,
    GPT3,
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL,
    MT_NLG,
    RECOMPUTE,
    Recompute,
    forward_flops,
    step_flops,
)
from course_utils.zero import zero

COLUMNS: list[dict[str, Any]] = [
    {"tensor": 1},
    {"tensor": 8},
    {"tensor": 8, "sequence_parallel": True},
    {"tensor": 8, "recompute": "selective"},
    {"tensor": 8, "sequence_parallel": True, "recompute": "selective"},
    {"recompute": "full"},
]
SIZES: dict[str, int] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 168, "vocab_size": 512, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "gib"),
    [(GPT3, (2.672, 0.539, 0.334, 0.305, 0.100, 0.047)), (MT_NLG, (3.828, 0.820, 0.479, 0.508, 0.166, 0.078))],
    ids=["GPT-3", "MT-NLG"],
)
def test_the_table_of_the_paper(model: Decoder, gib: tuple[float, ...]) -> None:
    s, h, a, t = model.length, model.width, model.heads, 8
    for column, want in zip(COLUMNS, gib, strict=True):
        assert layer_activations(s, 1, h, a, **column).total / GIB == pytest.approx(want, abs=0.0005)
    scores = 5 * a * s / h
    forms = (34 + scores, 10 + 24 / t + scores / t, (34 + scores) / t, 10 + 24 / t, 34 / t, 2)
    for column, factor in zip(COLUMNS, forms, strict=True):
        assert layer_activations(s, 3, h, a, **column).total == pytest.approx(s * 3 * h * factor)


def test_the_ratios_of_the_paper() -> None:
    assert [5 * m.heads * m.length / m.width for m in (GPT3, BLOOM, MT_NLG)] == [80, 80, 64]
    saved = [round(r / (34 + r), 2) for r in (80, 64)]
    assert saved == [0.70, 0.65]
    for model, sixth, all_scores, one_forward in ((GPT3, 2.78, 2.69, 0.90), (MT_NLG, 1.67, 1.64, 0.55)):
        scores, step = forward_flops(model)["scores"], step_flops(model, 1)
        assert round(100 * model.length / (6 * model.width), 2) == sixth
        assert round(100 * 3 * scores / step, 2) == all_scores
        assert round(100 * (step_flops(model, 1, "selective") / step - 1), 2) == one_forward


@contextmanager
def byte_masks() -> Iterator[None]:
    """Dropout that keeps its mask as bytes, as it does on a GPU; torch's CPU dropout keeps it as wide as its input."""
    original = F.dropout

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, training)[0] if p else x

    F.dropout = dropout
    try:
        yield
    finally:
        F.dropout = original


@pytest.mark.parametrize(("kernel", "dropout"), [("written_out", 0.0), ("written_out", 0.1), ("fused", 0.0)])
@pytest.mark.parametrize(("dtype", "number"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_formula_is_what_autograd_saves(kernel: Any, dtype: torch.dtype, number: int, dropout: float) -> None:
    """To the byte, when the 4 statistics of the norms, FP32, are added."""
    attention = "sdpa" if kernel == "fused" else "written_out"
    config = EncoderConfig(width=48, heads=3, depth=1, dropout=dropout, attention_dropout=dropout, attention=attention)
    layer = Encoder(config).to(dtype).train()
    x = torch.randn(5, 17, 48, dtype=dtype).requires_grad_()
    with Ledger(layer) as ledger, byte_masks():
        layer(x)
    formula = layer_activations(17, 5, 48, 3, kernel=kernel, dropout=dropout > 0, number=number)
    assert ledger.saved_peak - formula.total == 5 * 17 * 4 * number  # the statistics


@given(
    length=st.integers(1, 50),
    sequences=st.integers(1, 4),
    heads=st.sampled_from((4, 8, 12)),
    tensor=st.sampled_from((1, 2, 4)),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(("none", "selective", "full")),
    kernel=st.sampled_from(("written_out", "fused")),
    dropout=st.booleans(),
    number=st.sampled_from((2, 4)),
)
def test_the_parts_of_gpts_layer_add_up_to_the_closed_formula(
    length: int, sequences: int, heads: int, **how: Any
) -> None:
    model = Decoder(name="gpt", layers=1, width=24, heads=heads, vocab=10, length=length)
    parts = kept_activations(model, model.layer(), length, sequences, **how)
    assert parts == pytest.approx(layer_activations(length, sequences, 24, heads, **how))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_layer_keeps_what_autograd_keeps(family: str, dtype: torch.dtype) -> None:
    """To the byte: one layer's share, as the difference of three layers and two."""
    more = {"head_dim": 24} if family == "Qwen3" else {}

    def saved(layers: int) -> int:
        config = getattr(transformers, f"{family}Config")(
            **SIZES | {"num_hidden_layers": layers}, **more, attn_implementation="sdpa"
        )
        network = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
        with Ledger(network) as ledger:
            network.model(torch.zeros(2, 128, dtype=torch.long), use_cache=False)
        return ledger.saved_peak

    config = getattr(transformers, f"{family}Config")(**SIZES, **more)
    model = Decoder.from_config(config.to_dict())
    options: dict[str, Any] = {"kernel": "fused", "dropout": False, "number": dtype.itemsize}
    ours = kept_activations(model, model.layer(), 128, 2, **options).total
    normed, rows = (2 * 64, 2) if family == "Llama" else (2 * 64 + 6 * 24, 2 + 6)
    written_out = 2 * 128 * 4 * (normed + rows)  # these norms are no fused kernel; and their statistics
    assert saved(3) - saved(2) == ours + written_out


def test_a_llama_layer_keeps_41_sbh_and_8_more_where_its_norms_are_written_out() -> None:
    sbh = 8192 * LLAMA_8B.width
    rows = 4 * 8192 * LLAMA_8B.heads
    for policy, factor in {"none": 41, "pointwise": 4 + 5 + 14, "alternate": 2 * (1 + 1 + 0.25 + 1 + 3.5 + 1)}.items():
        kept = kept_activations(LLAMA_8B, LLAMA_8B.layer(), 8192, 1, recompute=policy, kernel="fused", dropout=False)
        assert kept.total - rows == pytest.approx(factor * sbh)


@pytest.mark.parametrize("model", [LLAMA_70B, MIXTRAL, DEEPSEEK_V3, GPT3], ids=lambda m: m.name)
def test_tokens_are_divided_by_the_context_axis_and_heads_by_the_tensor_axis(model: Decoder) -> None:
    def kept(recompute: Recompute = "none", **axes: Any) -> Any:
        return kept_activations(
            model, model.layer(), 4096, 1, recompute=recompute, kernel="fused", dropout=False, **axes
        )

    for recompute in RECOMPUTE:
        assert kept(recompute, context=4).total == pytest.approx(kept(recompute).total / 4)
        split = kept(recompute, tensor=8, sequence_parallel=True)
        assert split.total == pytest.approx(kept(recompute).total / 8)
    assert kept(tensor=8).norms == kept().norms
    order = [kept(recompute).total for recompute in ("none", "pointwise", "alternate", "full")]
    assert order == sorted(order, reverse=True)


def test_few_key_value_heads_stand_on_several_ranks() -> None:
    """Eight heads of keys and values on sixteen ranks: each head on two of them."""
    on_8, on_16 = (
        kept_activations(LLAMA_70B, LLAMA_70B.layer(), 1024, 1, tensor=t, kernel="fused", dropout=False).products
        for t in (8, 16)
    )
    keys_values = 2 * 1024 * 2 * 128
    assert on_8 / 2 < on_16 == (on_8 - keys_values) / 2 + keys_values


@pytest.mark.parametrize("vocab", [256, 2048])
@pytest.mark.parametrize("micro_batches", [2, 3])
def test_the_planner_says_what_a_step_holds_at_its_peak(vocab: int, micro_batches: int) -> None:
    """Weights, gradients, moments, activations, logits and their gradients: all tensors that are alive."""
    config = transformers.LlamaConfig(**SIZES | {"vocab_size": vocab, "hidden_size": 128}, attn_implementation="sdpa")
    network, plan = transformers.AutoModelForCausalLM.from_config(config), Decoder.from_config(config.to_dict())
    optimizer = torch.optim.AdamW(network.parameters(), foreach=False)
    batches = torch.randint(vocab, (micro_batches, 4, 128))

    def step() -> None:
        for ids in batches:
            logits = network(ids, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
            loss.backward()
            del logits, loss
        optimizer.step()
        optimizer.zero_grad()

    step()
    moments: list[Tensor] = [tensor for state in optimizer.state.values() for tensor in state.values()]
    with LiveMemory([*network.parameters(), *network.buffers(), *moments]) as live:
        step()
    planned = gpu_memory(
        Plan(model=plan, batch=4 * micro_batches, micro_batch=4, length=128, states=FP32_ADAM, kernel="fused",
             dropout=False)
    )  # fmt: skip
    norms = plan.layers * 4 * 128 * 4 * 2 * 128  # written out
    assert 0.98 < (planned.total + norms) / live.peak < 1.02


def peak_of_a_step(stage: int, vocab: int) -> int:
    """Bytes that one of four ranks holds at most in a step of two micro-batches: the course's decoder under ZeRO."""
    network = decoder.Decoder(
        DecoderConfig(
            vocab_size=vocab, width=128, depth=4, heads=4, kv_heads=2, head_width=32, mlp_width=344, max_length=128
        )
    )  # fmt: skip
    optimizers: list[torch.optim.Optimizer] = []

    def adam(parameters: Any) -> torch.optim.Optimizer:
        optimizers.append(torch.optim.AdamW(parameters, foreach=False))
        return optimizers[-1]

    model, batches = zero(network, adam, stage), torch.randint(vocab, (2, 2, 128))

    def step() -> None:
        for number, ids in enumerate(batches):
            with model.accumulating() if number == 0 else contextlib.nullcontext():
                logits = model(ids)
                loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
                loss.backward()
                del logits, loss
        model.step()

    step()
    moments = [tensor for state in optimizers[0].state.values() for tensor in state.values()]
    masters = [tensor for group in optimizers[0].param_groups for tensor in group["params"]]
    with LiveMemory([*network.parameters(), *network.buffers(), *masters, *moments]) as live:
        step()
    return live.peak


@pytest.mark.parametrize("vocab", [256, 2048])
def test_the_planner_says_what_four_ranks_hold_of_the_courses_decoder(vocab: int) -> None:
    """Stages 0 to 2; stage 3 frees gathered weights without an operation, which `LiveMemory` does not see."""
    peaks = launch(lambda: [peak_of_a_step(stage, vocab) for stage in (0, 1, 2)], 4)
    model = Decoder(
        name="course's", layers=4, width=128, heads=4, kv_heads=2, mlp_width=344, gated=True, norm="rms",
        biases="none", positions="rotary", tied=False, vocab=vocab, length=128,
    )  # fmt: skip
    # On a CPU no kernel fuses RMSNorm, and grouped attention returns what has to be copied before heads are joined.
    written_out = model.layers * 4 * 2 * 128 * (2 + 1) * 128
    for stage in (0, 1, 2):
        plan = Plan(
            model=model, batch=16, micro_batch=2, data=4, zero=stage, states=FP32_ADAM, kernel="fused", dropout=False
        )
        for rank in peaks:
            assert 0.98 < (gpu_memory(plan).total + written_out) / rank[stage] < 1.02, stage


def bytes_a_logit(ranks: int) -> float:
    """What a step of the loss holds at most of 16-bit logits over a vocabulary that the ranks divide."""
    tokens, words = 64, 1024 // ranks
    logits = torch.randn(tokens, words, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(words, (tokens,))
    with LiveMemory([logits]) as live:
        if ranks == 1:
            F.cross_entropy(logits.float(), targets).backward()
        else:
            mesh = init_device_mesh("cpu", (ranks,))
            with loss_parallel():
                F.cross_entropy(DTensor.from_local(logits, mesh, [Shard(1)]).float(), targets).backward()
    return live.peak / (tokens * words)


def test_logits_and_what_the_loss_makes_of_them_are_as_counted() -> None:
    for ranks in (1, 2):
        counted = sum(logits(GPT3, 1, 1, tensor=ranks)) * ranks / GPT3.vocab
        measured = launch(bytes_a_logit, ranks, ranks)
        assert measured == pytest.approx([counted] * ranks, rel=0.01)

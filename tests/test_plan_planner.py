"""The planner against its parts: what each axis, stage of ZeRO, precision and schedule divides and keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.pipeline.recipes import interleaved
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.activations import head_activations, layer_activations
from course_utils.plan.layer import Experts
from course_utils.plan.machines import A100, GIB, RTX_4090
from course_utils.plan.memory import (
    BF16_MOMENTS_ADAM,
    EIGHT_BIT_ADAM,
    FP32_ADAM,
    FSDP_ADAM,
    MASTER_ADAM,
    MASTER_ADAM_GRADIENT_SUM,
)
from course_utils.plan.plan import Lora, Plan
from course_utils.plan.planner import (
    fits,
    gpu_memory,
    rank_parameters,
    stage_parameters,
)
from course_utils.plan.transformer import (
    BLOOM,
    DEEPSEEK_V3,
    GPT2_XL,
    LLAMA_8B,
    LLAMA_70B,
    Decoder,
)

SMALL = Decoder(name="small", layers=7, width=24, heads=4, vocab=40, length=10)


@given(st.integers(1, 60), st.integers(1, 40))
def test_layers_are_divided_evenly_and_the_ends_get_the_fewer(layers: int, stages: int) -> None:
    if layers < stages:
        return
    parts = stage_layers(layers, stages)
    assert (len(parts), sum(parts)) == (stages, layers)
    assert max(parts) - min(parts) <= 1
    assert parts[-1] == min(parts)
    if layers % stages <= max(0, stages - 2):
        assert parts[0] == min(parts)


def test_the_planner_divides_layers_as_the_runtime_does() -> None:
    """Ten layers in four stages are 2, 3, 3, 2: each stage's weights are those of its layers."""
    plan = Plan(model=replace(SMALL, layers=10), batch=4, pipeline=4)
    inner = [gpu_memory(plan, stage).weights / (2 * SMALL.layer_parameters) for stage in (1, 2)]
    assert inner == [3, 3]
    ends = gpu_memory(plan, 0), gpu_memory(plan, 3)
    outside = 2 * SMALL.embedding_parameters, 2 * (2 + 40) * 24  # embedding; last norm and the tied table again
    assert [(m.weights - o) / (2 * SMALL.layer_parameters) for m, o in zip(ends, outside, strict=True)] == [2, 2]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_the_parts_make_the_whole(tensor: int, tied: bool) -> None:
    model = replace(SMALL, tied=tied)
    layers = stage_layers(7, 3)
    parts = [rank_parameters(model, n, tensor=tensor, first=s == 0, last=s == 2) for s, n in enumerate(layers)]
    copies = (tensor - 1) * (7 * 6 * 24 + 10 * 24 + 2 * 24)  # biases and norms, positions, the last norm
    again = model.vocab * 24 if tied else 0  # on the first and on the last stage
    assert tensor * sum(parts) == model.parameters + copies + again
    assert rank_parameters(model, 7) == model.parameters


def test_one_gpu_holds_the_states_and_the_activations() -> None:
    plan = Plan(model=SMALL, batch=6, micro_batch=3, dropout=False)
    memory = gpu_memory(plan)
    assert memory.states == 16 * SMALL.parameters
    assert memory.activations == 7 * layer_activations(10, 3, 24, 4, dropout=False).total
    assert memory.head == 10 * 3 * (2 * 2 * 24 + (2 + 3 * 4) * 40) == head_activations(SMALL, 10, 3)
    assert memory.recomputed == 0
    assert gpu_memory(replace(plan, states=FP32_ADAM)).activations == 2 * memory.activations
    full = gpu_memory(replace(plan, recompute="full"))
    assert full.activations + full.recomputed == (6 * 2 + 32 + 4 * 10 * 2 / 24) * 10 * 3 * 24
    assert full.head == 10 * 3 * 2 * 40  # by then of the logits alone


def test_each_axis_divides_what_it_should() -> None:
    one = Plan(model=replace(SMALL, layers=8), batch=8)
    base = gpu_memory(one)
    for stage, divided in enumerate([(), (2, 3), (1, 2, 3), (0, 1, 2, 3)]):
        memory = gpu_memory(replace(one, data=4, zero=stage))
        assert [memory[i] * (4 if i in divided else 1) for i in range(4)] == list(base[:4])
        assert memory.activations == base.activations
    piped = gpu_memory(replace(one, pipeline=4), stage=0)
    assert piped.activations == base.activations  # 4 micro-batches of 2 layers: 8 layers' worth
    assert piped.weights < 0.5 * base.weights
    split = gpu_memory(replace(one, tensor=4, sequence_parallel=True))
    assert split.activations == base.activations / 4


def test_bloom_fits_as_it_ran_and_not_otherwise() -> None:
    ran = Plan(
        model=BLOOM, batch=2048, micro_batch=2, data=8, pipeline=12, tensor=4, zero=1, recompute="full",
        states=MASTER_ADAM_GRADIENT_SUM,
    )  # fmt: skip
    assert (ran.gpus, ran.micro_batches) == (384, 128)
    assert fits(ran, A100)
    assert not fits(replace(ran, recompute="none"), A100)
    assert not fits(replace(ran, pipeline=1), A100)


def test_a_model_of_three_gigabytes_does_not_fit_into_24() -> None:
    plan = Plan(model=GPT2_XL, batch=1)
    assert 2 * GPT2_XL.parameters < 3.2e9
    assert not fits(plan, RTX_4090)
    assert 24 * GIB > gpu_memory(plan).weights * 8 > 0.9 * 24 * GIB  # model states alone: 8 times the weights


MIXED = replace(SMALL, layers=6, gated=True, experts=Experts(8, 2, 16, shared=1, dense_layers=2), kv_heads=2)


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("expert", [1, 2, 8])
def test_experts_are_divided_over_their_axis_and_all_else_is_not(tensor: int, expert: int) -> None:
    whole, part = stage_parameters(MIXED, 6), stage_parameters(MIXED, 6, tensor=tensor, expert=expert)
    assert sum(whole) == MIXED.parameters
    assert whole.experts == 4 * 8 * 3 * 24 * 16
    assert part.experts * tensor * expert == whole.experts
    assert part.dense == stage_parameters(MIXED, 6, tensor=tensor).dense


def test_few_key_value_heads_have_their_weights_on_several_ranks() -> None:
    """Of a layer's matrices sixteen ranks halve what eight hold, but for keys and values: eight heads of 128."""
    on_8, on_16 = (stage_parameters(LLAMA_70B, 1, tensor=t, first=False, last=False).dense for t in (8, 16))
    norms, keys_values = 2 * 8192, 2 * 8192 * 128
    assert on_16 == norms + (on_8 - norms - keys_values) / 2 + keys_values


def test_zero_divides_experts_over_the_ranks_that_hold_them_alike() -> None:
    plan = Plan(model=MIXED, batch=16, data=2, context=1, expert=4, zero=1)
    parts = stage_parameters(MIXED, 6, expert=4)
    memory = gpu_memory(plan)
    assert memory.moments == 8 * (parts.dense / 8 + parts.experts / 2)
    assert memory.weights == 2 * sum(parts)
    assert gpu_memory(replace(plan, data=1, context=2, batch=8)).moments == memory.moments
    assert (plan.gpus, plan.replicas, plan.micro_batches) == (8, 8, 2)


def test_deepseek_v3_fits_its_2048_gpus_by_its_own_precision_and_not_without_experts_divided() -> None:
    """16 pipeline ranks, 64 expert ranks, ZeRO-1 (arXiv:2412.19437, section 3.2)."""
    ran = Plan(
        model=DEEPSEEK_V3, batch=15360, data=2, expert=64, pipeline=16, zero=1, states=BF16_MOMENTS_ADAM,
        recompute="pointwise", kernel="fused", dropout=False,
    )  # fmt: skip
    assert ran.gpus == 2048
    assert gpu_memory(ran).states < 80 * GIB < gpu_memory(replace(ran, data=128, expert=1)).states


@pytest.mark.parametrize(("ranks", "chunks", "m"), [(2, 3, 4), (4, 2, 8), (4, 2, 2), (3, 3, 3), (4, 1, 8)])
def test_interleaving_holds_what_its_schedule_holds(ranks: int, chunks: int, m: int) -> None:
    model = replace(SMALL, layers=ranks * chunks * 2)
    plan = Plan(model=model, batch=m, pipeline=ranks, chunks=chunks)
    kept = layer_activations(10, 1, 24, 4).total
    live = interleaved(ranks, m, chunks).peak_live()
    assert [gpu_memory(plan, stage).activations for stage in range(ranks)] == [2 * kept * held for held in live]
    assert sorted(n for stage in range(ranks) for n in plan.layers_of(stage)) == list(range(model.layers))


def test_a_gathered_layer_has_the_bytes_that_its_precision_gathers() -> None:
    """FSDP2 keeps FP32 shards, and gathers 16 bits; gradients come to FP32 shards."""
    plan = Plan(model=LLAMA_8B, batch=8, data=8, zero=3, states=FSDP_ADAM, kernel="fused", dropout=False)
    memory = gpu_memory(plan)
    assert memory.weights == 4 * LLAMA_8B.parameters / 8
    at_work = stage_parameters(LLAMA_8B, 2).dense
    assert memory.gathered == 2 * at_work  # at the loss, before there are gradients
    again = gpu_memory(replace(plan, recompute="full", model=replace(LLAMA_8B, vocab=1000)))
    assert again.recomputed
    assert again.gathered == (2 + 4) * stage_parameters(replace(LLAMA_8B, vocab=1000), 2).dense
    assert gpu_memory(replace(plan, zero=1)).gathered == 0


def test_moments_of_few_bytes_are_few_bytes() -> None:
    plans = {states: Plan(model=LLAMA_8B, batch=1, states=states) for states in (MASTER_ADAM, EIGHT_BIT_ADAM)}
    moments = [gpu_memory(plan).moments / LLAMA_8B.parameters for plan in plans.values()]
    assert moments == [8, 2 + 2 * 4 / 256]
    assert BF16_MOMENTS_ADAM.total == 14


def test_lora_trains_its_updates_and_holds_the_model_once() -> None:
    """QLoRA's rank 64 on all matrices of a Llama layer: 1 to 2 % of the parameters (arXiv:2305.14314, section 5)."""
    lora = Lora(64, base=0.516)
    plan = Plan(model=LLAMA_8B, batch=1, lora=lora, kernel="fused", dropout=False)
    memory = gpu_memory(plan)
    shapes = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), *[(4096, 14336)] * 2, (14336, 4096)]
    added = 32 * sum(64 * (inputs + outputs) for inputs, outputs in shapes)
    assert memory.moments == 8 * added
    assert memory.weights == 0.516 * LLAMA_8B.parameters + 2 * added
    assert 0.01 < added / LLAMA_8B.parameters < 0.025
    on_queries = gpu_memory(replace(plan, lora=Lora(8, ("out",))))
    assert on_queries.gradients == 2 * 32 * 8 * (4096 + 4096)


def test_recomputing_some_layers_keeps_the_others_whole() -> None:
    plan = Plan(model=SMALL, batch=4, recompute="full", recompute_layers=3)
    full, none = (layer_activations(10, 1, 24, 4, recompute=how).total for how in ("full", "none"))
    assert gpu_memory(plan).activations == 3 * full + 4 * none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor": 3}, "4 heads .* 3 tensor-parallel ranks"),
        ({"pipeline": 8}, "7 layers .* 8 pipeline stages"),
        ({"data": 3, "batch": 8}, "multiple of 3, such as 6"),
        ({"zero": 4}, "zero 4 .* 0, 1, 2, 3"),
        ({"kernel": "flash"}, "kernel 'flash' .* written_out, fused"),
        ({"recompute": "some"}, "recompute 'some' .* none, selective, .* full"),
        ({"micro_batch": 0}, "micro_batch 0"),
        ({"further": {"echo": 0}}, "echo 0"),
        ({"length": 0}, "length 0"),
        ({"context": 3}, "10 tokens .* 3 context-parallel ranks"),
        ({"expert": 2}, "no experts of small .* 2 ranks"),
        ({"pipeline": 2, "chunks": 4}, "7 layers .* 8 pipeline stages"),
        ({"pipeline": 3, "chunks": 2}, "4 micro-batches .* multiple of 3"),
        ({"model": replace(SMALL, kv_heads=2, heads=8), "tensor": 4, "lora": Lora(0)}, "rank of lora 0"),
        ({"model": replace(SMALL, heads=12, kv_heads=6), "tensor": 4}, "6 key-value heads .* 4 tensor-parallel"),
    ],
)
def test_what_does_not_divide_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Plan(model=SMALL, batch=4), **change)


def test_an_unknown_way_to_recompute_is_said() -> None:
    with pytest.raises(ValueError, match="recompute 'some' is unknown: choose none or selective or full"):
        layer_activations(4, 1, 8, 2, recompute="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 heads cannot be divided over 2 ranks"):
        layer_activations(4, 1, 6, 3, tensor=2)

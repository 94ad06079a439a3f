"""What a plan sends, holds and takes with each stage of ZeRO, against real runs of ``zero()``; and the search."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.hybrid.cost import JEAN_ZAY, Cluster, memory, search, step_time, traffic
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.measure.communication import Link
from course_utils.models.encoder import Encoder, EncoderConfig
from course_utils.plan.machines import A100, H100
from course_utils.plan.memory import FP32_ADAM, FSDP_ADAM, MASTER_ADAM_FP32_GRADIENTS
from course_utils.plan.plan import Lora, Plan
from course_utils.plan.planner import gpu_memory, stage_parameters
from course_utils.plan.transformer import BLOOM, GPT2_XL, GPT3, LLAMA_8B, MIXTRAL, MT_NLG, Decoder, forward_flops
from course_utils.zero import zero

SMALL = Decoder(name="small", layers=4, width=32, heads=4, vocab=64, length=16)


class Network(nn.Module):
    """A decoder in all that counts here: its layers, what lies outside of them, and a head that shares the table."""

    def __init__(self, sizes: Decoder) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(sizes.vocab, sizes.width), nn.Embedding(sizes.length, sizes.width)
        self.encoder = Encoder(EncoderConfig(width=sizes.width, heads=sizes.heads, depth=sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.encoder(self.table(ids) + self.positions.weight)) @ self.table.weight.T


class Seen(NamedTuple):
    """What one rank of a real step held of weights and gradients at most, and sent."""

    both: int
    sent: float


def real_step(stage: int, micro_batches: int) -> Seen:
    """A model of the sizes of SMALL under our ZeRO: its second step, seen whenever a gradient comes or a layer runs."""
    network = Network(SMALL)
    model, held = zero(network, functools.partial(torch.optim.AdamW, lr=1e-3), stage), []
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: held.append(model.held()))
    for layer in network.encoder.layers:
        layer.register_forward_hook(lambda *_: held.append(model.held()))
    ids = torch.randint(SMALL.vocab, (2, SMALL.length))
    for _ in range(2):
        held.clear()
        with Ledger() as ledger:
            for number in range(micro_batches):
                last = number == micro_batches - 1
                with contextlib.nullcontext() if last else model.accumulating():
                    logits = model(ids)
                    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            model.step()
    return Seen(max(h.parameters + h.gradients for h in held), ledger.wire_bytes())


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_stage_of_zero_holds_and_sends_what_the_plan_says(ranks: int) -> None:
    cases = [(stage, m) for stage in (0, 1, 2, 3) for m in (1, 3)]
    results = launch(lambda: [real_step(*case) for case in cases], ranks)
    outside = SMALL.parameters - SMALL.layers * SMALL.layer_parameters
    for number, (stage, m) in enumerate(cases):
        plan = Plan(model=SMALL, batch=ranks * m * 2, micro_batch=2, data=ranks, zero=stage, states=FP32_ADAM)
        assert plan.micro_batches == m
        planned = gpu_memory(plan)
        for rank in results:
            seen = rank[number]
            held = planned.weights + planned.gradients + planned.gathered
            # In a step of one micro-batch the layers still to come have no shard of a gradient yet.
            missing = 0 if m > 1 or stage < 2 else 4 * (outside + 3 * SMALL.layer_parameters) / ranks
            assert held - missing <= seen.both <= held, (stage, m)
            assert seen.sent == traffic(plan, 0)["data"], (stage, m)
    three, two = (traffic(replace(plan, zero=z, batch=ranks * 2), 0)["data"] for z in (3, 0))
    assert three == 1.5 * two


def test_the_gathered_layers_of_a_huge_model_do_not_fit_a_small_gpu() -> None:
    """530 billion parameters over 4,096 ranks are little each; two of its layers are not."""
    plan = Plan(model=MT_NLG, batch=4096, data=4096, zero=3, recompute="full", kernel="fused", dropout=False)
    held = gpu_memory(plan)
    assert held.weights + held.gradients < 1e9 < 40e9 < held.gathered
    assert gpu_memory(replace(plan, data=1, batch=1)).gathered == 0


def test_gradients_in_fp32_are_sent_as_such() -> None:
    plan = Plan(model=GPT3, batch=64, data=8, states=MASTER_ADAM_FP32_GRADIENTS)
    sent = [traffic(replace(plan, zero=stage), 0)["data"] for stage in range(2)]
    assert sent == [2 * 7 / 8 * 4 * GPT3.parameters, 7 / 8 * (4 + 2) * GPT3.parameters]


def test_zero_changes_the_seconds_of_the_data_axis_and_of_nothing_else() -> None:
    link = Link(0.0, 1e9)
    cluster = Cluster(per_node=8, inside=link, between=link)
    plan = Plan(model=GPT2_XL, batch=32, data=8, recompute="full")
    times = [step_time(replace(plan, zero=stage), cluster) for stage in range(4)]
    for stage, time in enumerate(times):
        assert time.axes["data"] == pytest.approx(traffic(replace(plan, zero=stage), 0)["data"] / 1e9)
        assert time.axes["tensor"] == time.axes["pipeline"] == 0
        assert time.compute == times[0].compute
    assert times[0].axes["data"] == times[1].axes["data"]
    assert times[3].axes["data"] == pytest.approx(1.5 * plan.micro_batches * times[0].axes["data"])


def test_messages_of_every_micro_batch_are_lengthened_by_the_bubble() -> None:
    link = Link(1e-3, 1e9)
    cluster = Cluster(per_node=8, inside=link, between=link)
    plan = Plan(model=GPT2_XL, batch=64, data=2, pipeline=4, tensor=5)
    for stage in range(4):
        time = step_time(replace(plan, zero=stage), cluster)
        repeated = time.compute + time.axes["tensor"] + time.axes["pipeline"] + (time.axes["data"] if stage == 3 else 0)
        if stage != 2:
            assert time.bubble == pytest.approx(repeated * 3 / plan.micro_batches)


def test_bloom_takes_as_long_as_it_took() -> None:
    plan = Plan(model=BLOOM, batch=2048, micro_batch=2, data=8, pipeline=12, tensor=4, zero=1, recompute="full")
    assert step_time(plan, JEAN_ZAY).total == pytest.approx(104.7, rel=0.01)
    assert [round(size / 1e9, 1) for size in traffic(plan, 1).values()] == [13.0, 30.1, 811.7]


def test_keys_and_values_go_round_the_ring_and_gradients_are_added_up_along_it() -> None:
    """Forward a rank passes on c - 1 blocks; backward as many again, and as many gradients."""
    plan = Plan(model=LLAMA_8B, batch=4, context=4, kernel="fused", dropout=False)
    block = 8192 // 4 * 2 * 8 * 128 * 2  # keys and values of 8 heads of 128 numbers, 2 bytes
    sent = traffic(plan, 0)
    assert sent["context"] == 4 * 32 * 3 * 3 * block  # micro-batches, layers, passes, other ranks
    assert sent["data"] == 2 * 3 / 4 * 2 * LLAMA_8B.parameters  # all four ranks hold the same weights
    assert traffic(replace(plan, recompute="full"), 0)["context"] == sent["context"] * 4 / 3
    assert traffic(replace(plan, tensor=8), 0)["context"] == sent["context"] / 8
    on_16 = traffic(replace(plan, tensor=16), 0)["context"]
    assert on_16 == sent["context"] / 8, "eight heads, each on two ranks"


def test_tokens_go_to_their_experts_and_back() -> None:
    plan = Plan(model=MIXTRAL, batch=8, length=1024, expert=8, kernel="fused", dropout=False)
    sent, parts = traffic(plan, 0), stage_parameters(MIXTRAL, 32, expert=8)
    assert sent["expert"] == 32 * 4 * 2 * 1024 * 4096 * 2 * 7 / 8  # layers, there and back twice, two experts, bytes
    assert sent["data"] == 2 * 7 / 8 * 2 * parts.dense, "each expert stands on one rank, all else on eight"
    twice = traffic(replace(plan, data=2, batch=16), 0)["data"]
    assert twice == 2 * 15 / 16 * 2 * parts.dense + 2 * 1 / 2 * 2 * parts.experts


def test_interleaving_sends_as_many_times_as_there_are_chunks_and_idles_less() -> None:
    plan = Plan(model=LLAMA_8B, batch=16, pipeline=4, kernel="fused", dropout=False)
    twice = replace(plan, chunks=2)
    messages = [[traffic(one, stage)["pipeline"] / (16 * one.message) for stage in range(4)] for one in (plan, twice)]
    assert messages == [[1, 2, 2, 1], [3, 4, 4, 3]]
    link = Link(0.0, 1e15)
    cluster = Cluster(per_node=8, inside=link, between=link)
    assert step_time(twice, cluster).bubble == pytest.approx(step_time(plan, cluster).bubble / 2, rel=1e-3)


def test_what_hides_behind_products_costs_no_time_until_there_is_no_room() -> None:
    slow = Cluster(per_node=8, inside=Link(0.0, 1e9), between=Link(0.0, 1e9))
    plan = Plan(model=GPT2_XL, batch=64, data=2, tensor=5, recompute="full", zero=1)
    open_ = step_time(plan, slow)
    for overlap in (0.1, 10.0):
        hidden = step_time(plan, replace(slow, overlap=overlap))
        assert hidden.axes["tensor"] == open_.axes["tensor"]
        assert hidden.axes["data"] == pytest.approx(max(0, open_.axes["data"] - overlap * open_.compute))


def test_two_axes_that_hide_share_the_room_behind_the_products() -> None:
    slow = Cluster(per_node=8, inside=Link(0.0, 1e9), between=Link(0.0, 1e9))
    plan = Plan(model=LLAMA_8B, batch=64, data=2, context=4, kernel="fused", dropout=False)
    open_, hidden = step_time(plan, slow), step_time(plan, replace(slow, overlap=0.1))
    assert min(open_.axes["data"], open_.axes["context"]) > 0.1 * open_.compute
    saved = sum(open_.axes.values()) - sum(hidden.axes.values())
    assert saved == pytest.approx(0.1 * open_.compute)


def test_8_bit_factors_halve_the_products_of_layers_and_leave_scores_and_head() -> None:
    link = Link(0.0, 1e9)
    cluster = Cluster(per_node=8, inside=link, between=link, gpu=H100)
    plan = Plan(model=LLAMA_8B, batch=1, length=1024, kernel="fused", dropout=False)
    wide, narrow = (step_time(plan, replace(cluster, fp8=fp8)).compute for fp8 in (False, True))
    parts = forward_flops(LLAMA_8B, length=1024)
    layers = sum(parts[part] for part in ("qkv", "out", "mlp")) / sum(parts.values())
    assert narrow / wide == pytest.approx(1 - layers * (1 - H100.peak / H100.peak_fp8))
    with pytest.raises(ValueError, match="A100 80 GB multiplies no 8-bit floats"):
        replace(cluster, gpu=A100, fp8=True)


def test_lora_sends_the_gradients_of_its_updates_alone() -> None:
    plan = Plan(model=LLAMA_8B, batch=8, data=8, lora=Lora(16, ("out",)), kernel="fused", dropout=False)
    added = 32 * 16 * (4096 + 4096)
    assert traffic(plan, 0)["data"] == 2 * 7 / 8 * 2 * added
    gathered = traffic(replace(plan, zero=3), 0)["data"] - 3 * 7 / 8 * 2 * added
    assert gathered == 2 * 7 / 8 * 2 * LLAMA_8B.parameters, "the frozen weights, forward and backward"


def test_fsdp_gathers_16_bits_and_scatters_32() -> None:
    plan = Plan(model=LLAMA_8B, batch=8, data=8, zero=3, states=FSDP_ADAM, kernel="fused", dropout=False)
    assert traffic(plan, 0)["data"] == 7 / 8 * (2 + 2 + 4) * LLAMA_8B.parameters


def test_what_is_not_resharded_is_gathered_once_and_stays() -> None:
    plan = Plan(model=GPT2_XL, batch=32, data=8, zero=3, states=FSDP_ADAM, recompute="full", kernel="fused")
    kept = replace(plan, reshard=False)
    share = 7 / 8 * GPT2_XL.parameters
    assert traffic(kept, 0)["data"] == share * (2 + 4)
    assert traffic(plan, 0)["data"] == 4 * share * (2 + 2 + 4), "four micro-batches"
    link = Link(0.0, 1e9)
    cluster = Cluster(per_node=8, inside=link, between=link)
    for one in (plan, kept):
        assert step_time(one, cluster).axes["data"] == pytest.approx(traffic(one, 0)["data"] / 1e9)
    assert gpu_memory(kept).gathered == (2 + 4) * GPT2_XL.parameters > 5 * gpu_memory(plan).gathered


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_search_proposes_nothing_that_does_not_fit(stage: int) -> None:
    plan = Plan(model=GPT3, batch=64, zero=stage, recompute="full", kernel="fused", dropout=False)
    for gpu in (A100, H100):
        found = list(search(plan, replace(JEAN_ZAY, gpu=gpu), 64))
        proposed = [candidate.plan for candidate in found if candidate.plan]
        assert proposed, "some grid fits"
        assert all(memory(one).total <= 0.9 * gpu.memory for one in proposed)
        assert {one.zero for one in proposed} == {stage}
        refused = [candidate for candidate in found if candidate.plan is None]
        assert all(candidate.time is None and candidate.reason for candidate in refused)


def test_stage_3_lets_grids_fit_that_did_not_and_costs_time() -> None:
    plan = Plan(model=GPT3, batch=64, recompute="full", kernel="fused", dropout=False)
    fit = [
        {str(candidate.grid): candidate.time for candidate in search(replace(plan, zero=stage), JEAN_ZAY, 64)}
        for stage in (1, 3)
    ]
    possible = [{grid for grid, time in one.items() if time} for one in fit]
    assert possible[0] < possible[1]
    assert all(fit[1][grid].total > fit[0][grid].total for grid in possible[0] if not grid.startswith("1 x"))

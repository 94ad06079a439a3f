"""Bytes of a GPU: model states, activations and the peaks that runs reported."""

from __future__ import annotations

from typing import Any

from course_utils.hybrid.cost import memory
from course_utils.plan.activations import kept_activations, layer_activations
from course_utils.plan.decoder import Decoder
from course_utils.plan.machines import GIB
from course_utils.plan.memory import FSDP_ADAM, MASTER_ADAM, MASTER_ADAM_FP32_GRADIENTS, MASTER_ADAM_GRADIENT_SUM
from course_utils.plan.plan import Plan
from course_utils.plan.planner import stage_parameters
from course_utils.plan.transformer import LLAMA_1B, LLAMA_8B, LLAMA_70B, LLAMA_405B
from course_utils.published.check import Check
from course_utils.zero.cost import states_per_rank

PLAYBOOK = "Ultra-Scale Playbook, dist/fragments/{}.html"
TITAN = "pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, Table {}"
ESTIMATOR = "deepspeedai/DeepSpeed#4527"


def playbook() -> list[Check]:
    """The Ultra-Scale Playbook's plotted data. Its first plots are of GPT's layer, 5 a s^2 b of scores among it."""
    found = []
    for length, printed, parameters in (
        (1024, 9.25390625, 25.979034423828125),
        (2048, 28.5078125, None),
        (4096, 97.015625, None),
        (8192, 354.03125, None),
        (16384, 1348.0625, 26.213409423828125),
    ):
        gpt = Decoder(name="8B", layers=32, width=4096, heads=32, vocab=128256, length=length, tied=True)
        found.append(_plotted(gpt, printed, "memusage_activations"))
        if parameters:
            size = 4 * gpt.parameters / GIB
            remark = "the plot's 8B is a GPT of 6.97 billion, not Llama's 8.03"
            name = f"8B, {length} tokens: FP32 weights"
            found.append(
                Check(name, PLAYBOOK.format("memusage_activations"), parameters, size, "GiB", 0, remark=remark)
            )
    for length, printed in ((1024, 3.564453125), (2048, 12.12890625), (4096, 44.2578125), (8192, 168.515625)):
        gpt = Decoder(name="1B", layers=16, width=2048, heads=32, vocab=128256, length=length, tied=True)
        found.append(_plotted(gpt, printed, "memory-recomputation"))
    for length, printed in ((1024, 4.25), (4096, 17), (16384, 68), (65536, 272), (131072, 544)):
        ours = 32 * layer_activations(length, 1, 4096, 32, recompute="selective").total / GIB
        found.append(
            Check(
                f"8B, {length} tokens, scores recomputed: activations",
                PLAYBOOK.format("cp_8B"),
                printed,
                ours,
                "GiB",
                0,
            )
        )
    mebibytes = "rounded down to MiB before it was plotted"
    for model, weights, rest in ((LLAMA_1B, 2.3017578125, 9.20703125), (LLAMA_8B, 14.95703125, 59.828125)):
        for name, printed, size in (("16-bit weights", weights, 2), ("gradients and moments", rest, 8)):
            ours = size * model.parameters / GIB
            found.append(
                Check(f"{model.name}: {name}", PLAYBOOK.format("zero3"), printed, ours, "GiB", 1e-4, remark=mebibytes)
            )
    first = 2 * stage_parameters(LLAMA_8B, 4, last=False).dense / GIB
    found.append(
        Check("Llama 3.1 8B on 8 stages: weights", PLAYBOOK.format("pp_memoryusage"), 2.603515625, first, "GiB", 1e-4,
              remark="of the first stage, with the token table; the mean is 1.87")
    )  # fmt: skip
    whole = 2 * LLAMA_70B.parameters / GIB
    found.append(
        Check("Llama 3.1 70B: 16-bit weights", PLAYBOOK.format("tp_sp_memoryusage"), 131.5, whole, "GiB", 0.001)
    )
    return found  # fmt: skip


def _plotted(gpt: Decoder, printed: float, plot: str) -> Check:
    """Activations of all layers, and the mask of the dropout behind the embedding."""
    options: dict[str, Any] = {"kernel": "written_out", "dropout": True}
    layers = gpt.layers * kept_activations(gpt, gpt.layer(), gpt.length, 1, **options).total
    ours = (layers + gpt.length * gpt.width) / GIB
    return Check(f"{gpt.name}, {gpt.length} tokens: activations", PLAYBOOK.format(plot), printed, ours, "GiB", 0)


def states() -> list[Check]:
    """Model states."""
    zero = "Rajbhandari et al. 2020, arXiv:1910.02054, Figure 1"
    found = [
        Check(
            f"7.5 billion on 64 ranks, ZeRO-{stage}",
            zero,
            printed,
            states_per_rank(7.5e9, 64, stage)[0].total / 1e9,
            "GB",
        )
        for stage, printed in enumerate((120, 31.4, 16.6, 1.88))
    ]
    table = "Ultra-Scale Playbook, table of model states"
    for billions, total, summed in ((1, 16, 20), (7, 112, 140), (70, 1120, 1400), (405, 6480, 8100)):
        found += [
            Check(f"{billions}B: states", table, total, MASTER_ADAM.total * billions, "GB", 0),
            Check(
                f"{billions}B: with FP32 gradients", table, summed, MASTER_ADAM_GRADIENT_SUM.total * billions, "GB", 0
            ),
        ]
    largest, size, ranks = 131e6, 6805e6, 4
    steps = (4 * largest, 4 * largest + 2 * size / ranks, 4 * largest + MASTER_ADAM_FP32_GRADIENTS.total * size / ranks)
    for name, printed, ours in zip(("all", "optimizer", "nothing"), (0.49, 3.66, 29.01), steps, strict=True):
        found.append(
            Check(
                f"6.8 billion on 4 ranks, ZeRO-3, offloaded: {name}",
                ESTIMATOR,
                printed,
                ours / GIB,
                "GiB",
                remark="4 bytes of the largest layer, gathered, and 18 of each parameter",
            )
        )
    qlora = "Dettmers et al. 2023, arXiv:2305.14314"
    found.append(
        Check(
            "65 billion, 16-bit fine-tuning with Adam",
            qlora,
            780,
            12 * 65,
            "GB",
            0,
            remark="12 bytes: 16-bit weights and gradients, FP32 moments, no master copy",
        )
    )
    found.append(Check("NF4: bits of the doubly quantised scales", qlora, 0.127, 8 / 64 + 32 / (64 * 256), "", 0.001))
    found.append(
        Check(
            "LLaMA 7B in NF4: base model",
            qlora,
            5048,
            _nf4_llama() / 2**20,
            "MB",
            0.02,
            closes=False,
            remark="4.127 bits of the layers and 16-bit tables make 3.4 GiB; what the other 1.5 are is not said",
        )
    )
    return found  # fmt: skip


def _nf4_llama() -> float:
    llama = Decoder(
        name="LLaMA 7B", layers=32, width=4096, heads=32, mlp_width=11008, vocab=32000, length=2048,
        positions="rotary", gated=True, norm="rms", biases="none", tied=False,
    )  # fmt: skip
    tables = 2 * llama.vocab * llama.width
    return 4.127 / 8 * (llama.parameters - tables) + 2 * tables


def peaks() -> list[Check]:
    """Peaks that runs reported: what the allocator had reserved, so more than the sum of its tensors."""
    base: dict[str, Any] = {"zero": 3, "states": FSDP_ADAM, "kernel": "fused", "dropout": False}
    eight = {**base, "model": LLAMA_8B, "micro_batch": 2, "recompute": "alternate"}
    long = {**base, "model": LLAMA_8B, "recompute": "full"}
    seventy = {**base, "model": LLAMA_70B, "batch": 512, "micro_batch": 16, "data": 32, "tensor": 8}
    seventy |= {"sequence_parallel": True, "recompute": "full"}
    eager = "nothing compiled: {:.0f} GiB more than compiled, with the same tensors to keep"
    rows = [
        ("Llama 3.1 8B, 8 GPUs, FSDP", 1, 82.4, Plan(**eight, batch=16, data=8), eager.format(82.4 - 77)),
        ("Llama 3.1 8B, 8 GPUs, FSDP, compiled", 1, 77.0, Plan(**eight, batch=16, data=8), ""),
        ("Llama 3.1 8B, 128 GPUs, FSDP", 3, 67.0, Plan(**eight, batch=256, data=128), eager.format(67 - 62)),
        ("Llama 3.1 8B, 128 GPUs, FSDP, compiled", 3, 62.0, Plan(**eight, batch=256, data=128), ""),
    ]
    for ranks, printed in ((1, 83.9), (2, 84.2), (4, 84.0), (8, 84.5)):
        plan = Plan(**long, batch=8 // ranks, data=8 // ranks, context=ranks, length=32768 * ranks)
        rows.append((f"Llama 3.1 8B, {plan.tokens} tokens on {ranks} ranks", 2, printed, plan, "in Float8"))
    found = [
        Check(f"{name}: peak", TITAN.format(table), printed, memory(plan).total / GIB, "GiB", 0.1, remark=remark)
        for name, table, printed, plan, remark in rows
    ]
    five: dict[str, Any] = {**base, "model": LLAMA_405B, "batch": 256, "micro_batch": 4, "data": 8, "tensor": 8}
    five |= {"pipeline": 8, "sequence_parallel": True, "recompute": "full", "reshard": False}
    for chunks, printed in ((1, 82.5), (2, 72.7)):
        ran = memory(Plan(**five, chunks=chunks)).total / GIB
        name = f"Llama 3.1 405B, 512 GPUs, FSDP x tensor x pipeline, {chunks} chunks: peak"
        remark = "in Float8; eight micro-batches of four sequences are assumed"
        if chunks == 1:
            remark += "; why it held 10 GiB more than the interleaved run, which keeps more activations, is not known"
        found.append(Check(name, TITAN.format(5), printed, ran, "GiB", 0.1, closes=chunks > 1, remark=remark))
    gathered = 16 * 8192 * LLAMA_70B.width * 2 / GIB  # a sequence's activations, whole
    ran = memory(Plan(**seventy)).total / GIB
    for how, printed in (("", 71.9), (", asynchronous", 67.6)):
        remark = f"{printed - ran:.0f} GiB more, in Float8: inputs and gradients that sequence parallelism gathers are "
        remark += f"{gathered:.0f} GiB each" + (", here piece by piece" if how else "")
        name = f"Llama 3.1 70B, 256 GPUs, FSDP x tensor{how}: peak"
        found.append(Check(name, TITAN.format(4), printed, ran, "GiB", 0.1, closes=False, remark=remark))
    return found

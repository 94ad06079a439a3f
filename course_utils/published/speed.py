"""Operations, utilisation and seconds that were published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from course_utils.hybrid.clusters import CLUSTERS
from course_utils.hybrid.cost import JEAN_ZAY, Cluster, step_time
from course_utils.measure.communication import Link
from course_utils.pipeline.recipes import interleaved, one_f_one_b, zero_bubble_h1, zero_bubble_v
from course_utils.pipeline.simulator import bubble_overhead, simulate
from course_utils.plan.machines import H100
from course_utils.plan.memory import BF16_MOMENTS_ADAM, FSDP_ADAM, MASTER_ADAM_FP32_GRADIENTS, MASTER_ADAM_GRADIENT_SUM
from course_utils.plan.plan import Plan
from course_utils.plan.transformer import (
    BLOOM,
    DEEPSEEK_V3,
    GPT3,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
    MT_NLG,
    six_n,
    step_flops,
    utilisation,
)
from course_utils.published.check import Check
from course_utils.published.memory import TITAN
from course_utils.published.parameters import MPT, MPT_TABLE

LLAMA_3 = "Grattafiori et al. 2024, arXiv:2407.21783, Table 4"
PALM = "Chowdhery et al. 2022, arXiv:2204.02311, appendix B"
V3 = "DeepSeek-AI 2024, arXiv:2412.19437, Table 1"
MEGATRON = "Narayanan et al. 2021, arXiv:2104.04473, section 5.1"
BLOOM_LOG = "bigscience-workshop/bigscience, train/tr11-176B-ml/README.md"
EOS = "JaneLiCC/Notes, eos.md"
MT = "Smith et al. 2022, arXiv:2201.11990, section 2.4"


def utilisations() -> list[Check]:
    """Shares of the peak, and FLOP/s."""
    logged = utilisation(step_flops(BLOOM, 2048, "full"), 104.7, 384, 1e12)
    palm = six_n(540_350_000_000, 1), 12 * 118 * 48 * 256 * 2048  # of a token: products, and scores for all pairs
    mpt = next(iter(MPT))
    rows: list[tuple[str, str, float, float, float, str]] = [
        ("BLOOM: TFLOP/s of a GPU, recomputation counted", BLOOM_LOG, 149.77, logged, 1e-4, ""),
        ("PaLM 540B: MFU, %", PALM, 46.2, _percent(sum(palm) * 238.3e3, 6144, 275e12), 0.002, ""),
        ("PaLM 540B: MFU without scores, %", PALM, 45.7, _percent(palm[0] * 238.3e3, 6144, 275e12), 0.002, ""),
        ("nanochat: MFU, %", "karpathy/nanochat, README", 49.97, _percent(4.330784e19 / 10949, 8, H100.peak), 1e-3, ""),
        (
            *("MPT 7b on 8 H100: MFU, %", MPT_TABLE, 46.44, _percent(step_flops(mpt, 1) / 2048 * 85144, 8, H100.peak)),
            *(0.002, "6 N counts look-ups in the tables as products"),
        ),
    ]
    found = [Check(*row[:4], within=row[4], remark=row[5]) for row in rows]
    for gpus, reached, printed in ((8192, 430, 43), (16384, 400, 41), (16384, 380, 38)):
        right, name = printed != 41, f"Llama 3 405B, {gpus} GPUs, {reached} TFLOP/s: MFU, %"
        ours, remark = 100 * reached * 1e12 / H100.peak, "" if right else "400 of 989.4 TFLOP/s are 40.4 %"
        found.append(Check(name, LLAMA_3, printed, ours, within=0.0125, closes=right, remark=remark))
    return found


def _percent(flops: float, devices: int, peak: float) -> float:
    """Utilisation of so many FLOP/s, in per cent."""
    return 100 * utilisation(flops, 1, devices, peak)


def budgets() -> list[Check]:
    """Days and hours of whole runs."""
    days = [8 * tokens * size / (gpus * rate) / 86400 for tokens, size, gpus, rate in
            ((300e9, 175e9, 1024, 140e12), (450e9, 1008e9, 3072, 163e12))]  # fmt: skip
    return [
        Check("GPT-3 on 1,024 A100: days", MEGATRON, 34, days[0], "", 0.01),
        Check("1T on 3,072 A100: days", MEGATRON, 84, days[1], "", 0.015),
        Check("MegaScale 175B, 6.34 s a step: thousand tokens/s", EOS, 1984, 6144 * 2048 / 6.34 / 1e3, "", 0.002),
        Check("GPT-3 on Eos, 1.07 s a step: thousand tokens/s", EOS, 5155, 2688 * 2048 / 1.07 / 1e3, "", 0.003),
        Check("DeepSeek-V3: GPU hours of a trillion tokens", V3, 180e3, 2664e3 / 14.8, "", 0.001),
        Check("DeepSeek-V3: days of a trillion tokens, 2,048 GPUs", V3, 3.7, 180e3 / 2048 / 24, "", 0.012),
        Check("DeepSeek-V3: millions of dollars, at 2 an hour", V3, 5.576, 2 * (2664 + 119 + 5) / 1e3, "", 0),
        Check(
            *("Llama 3: faulty GPUs among 419 interruptions", "arXiv:2407.21783, Table 5", 30.1, 100 * 148 / 419, "%"),
            closes=False,
            remark="148 of 419 are 35.3 %; the table's other shares are of 419",
        ),
        Check("Llama 3: hours between interruptions", "arXiv:2407.21783, section 3.3.4", 3.09, 54 * 24 / 419, "", 0.005,
              remark="419 in 54 days"),
    ]  # fmt: skip


def bubbles() -> list[Check]:
    """Bubbles of schedules."""
    zero = "sail-sg/zero-bubble-pipeline-parallelism, README"
    p, m = 8, 24
    plain, half, v_shaped = (simulate(recipe(p, m)) for recipe in (one_f_one_b, zero_bubble_h1, zero_bubble_v))
    rows = [
        Check("1F1B on 8 ranks, 24 micro-batches: bubble", zero, 7 / 24, plain.bubble_overhead, "", 1e-9),
        Check("ZB-H1: bubble", zero, 7 / 72, half.bubble_overhead, "", 1e-9),
        Check("ZB-V: step over ideal", zero, 1, 1 + v_shaped.bubble_overhead, "", 0.05, remark="idle at its ends"),
        Check("ZB-H1: activations against 1F1B", zero, 1, max(half.peak_live) / max(plain.peak_live), "", 0),
        Check("interleaved over plain 1F1B: tokens a second", TITAN.format(5), 1.28, _speed_up(), "", 0.02,
              remark="from bubbles alone, with as many micro-batches as ranks, which the table does not say"),
    ]  # fmt: skip
    wrong = sum(_reachable(m, v) > 7 / (m * v) + 1e-9 for m in (1, 2, 4, 8, 16, 32) for v in (1, 2, 4, 8))
    remark = "with fewer micro-batches than ranks a rank idles between two chunks: (p-1)/(m v) is too small"
    name, plot = "bars that a schedule reaches, of a plot", "Ultra-Scale Playbook, dist/fragments/pp_bubblesize.html"
    return [*rows, Check(name, plot, 24, 24 - wrong, closes=False, remark=remark)]


def _reachable(m: int, v: int) -> float:
    return simulate(interleaved(8, m, v)).bubble_overhead


def _speed_up() -> float:
    return (1 + bubble_overhead(8, 8)) / (1 + bubble_overhead(8, 8, 2))


def times() -> list[Check]:
    """Seconds of a step: what the model of time says of runs whose layout is known."""
    h100, a100 = CLUSTERS["h100"], CLUSTERS["a100"]
    return [
        *_llama_3(h100),
        *_torchtitan(h100),
        *_float8(replace(h100, fp8=True)),
        _step("BLOOM, 384 A100", BLOOM_LOG, 104.7, Plan(**BLOOM_RAN), JEAN_ZAY),
        *(
            _step(f"MT-NLG 530B, {8 * nodes} A100", MT, seconds, _mt_nlg(nodes), a100, "kernels of 2021")
            for nodes, seconds in ((280, 60.1), (350, 50.2), (420, 44.4))
        ),
        _step("GPT-3, 10,752 H100", EOS, 1.07, Plan(**EOS_RAN), h100, "MLPerf; in which precision is not said"),
    ]


BLOOM_RAN: dict[str, Any] = {"model": BLOOM, "batch": 2048, "micro_batch": 2, "data": 8, "pipeline": 12, "tensor": 4}
BLOOM_RAN |= {"zero": 1, "recompute": "full", "states": MASTER_ADAM_GRADIENT_SUM}
EOS_RAN: dict[str, Any] = {"model": GPT3, "batch": 2688, "data": 336, "pipeline": 8, "chunks": 6, "tensor": 4}
EOS_RAN |= {"zero": 1, "kernel": "fused", "sequence_parallel": True}


def _mt_nlg(nodes: int) -> Plan:
    return Plan(model=MT_NLG, batch=1920, data=nodes // 35, tensor=8, pipeline=35, recompute="full")


def _llama_3(h100: Cluster) -> list[Check]:
    plan: dict[str, Any] = {"model": LLAMA_405B, "tensor": 8, "pipeline": 16, "chunks": 4, "sequence_parallel": True}
    plan |= {"zero": 1, "kernel": "fused", "dropout": False, "states": MASTER_ADAM_FP32_GRADIENTS}
    found, assumed = [], "with four chunks a pipeline rank, which the paper does not say"
    longer: dict[str, Any] = {"data": 8, "context": 16, "length": 131072, "batch": 128}
    for reached, sizes in ((430, {"data": 64}), (400, {"data": 128}), (380, longer)):
        ran = Plan(**{"batch": 2048, **plan, **sizes})
        seconds = step_flops(LLAMA_405B, ran.batch, length=ran.tokens) / (ran.gpus * reached * 1e12)
        name = f"Llama 3 405B, {ran.gpus:,} GPUs, {ran.tokens:,} tokens"
        found.append(_step(name, LLAMA_3, seconds, ran, h100, assumed, closes=True))
    return found


def _torchtitan(h100: Cluster) -> list[Check]:
    plan: dict[str, Any] = {"model": LLAMA_8B, "micro_batch": 2, "zero": 3, "states": FSDP_ADAM, "kernel": "fused"}
    plan |= {"dropout": False, "recompute": "alternate"}
    found, slower = [], "GPUs held to 500 W, whose peak is not known"
    for gpus, table, plain, compiled in ((8, 1, 5762, 6667), (128, 3, 5605, 6514)):
        ran, name = Plan(**plan, batch=2 * gpus, data=gpus), f"Llama 3.1 8B, {gpus} GPUs, FSDP"
        found += [
            _step(name, TITAN.format(table), 2 * 8192 / plain, ran, h100, f"{slower}; nothing compiled"),
            _step(f"{name}, compiled", TITAN.format(table), 2 * 8192 / compiled, ran, h100, slower, closes=gpus == 128),
        ]
    return found


def _float8(h100: Cluster) -> list[Check]:
    """Runs that multiply the layers' matrices in Float8, and DeepSeek-V3."""
    base: dict[str, Any] = {"zero": 3, "states": FSDP_ADAM, "kernel": "fused", "dropout": False}
    eight = {**base, "model": LLAMA_8B, "micro_batch": 2, "recompute": "alternate"}
    large = {**base, "tensor": 8, "sequence_parallel": True, "recompute": "full"}
    five = {**large, "model": LLAMA_405B, "batch": 256, "micro_batch": 4, "data": 8, "pipeline": 8, "reshard": False}
    rows = [  # tokens a second and GPU
        ("8B, 8 GPUs", 1, 8532, Plan(**eight, batch=16, data=8)),
        ("8B, 128 GPUs", 3, 8380, Plan(**eight, batch=256, data=128)),
        ("70B, 256 GPUs", 4, 829, Plan(**large, model=LLAMA_70B, batch=512, micro_batch=16, data=32)),
        ("405B, 512 GPUs, 1F1B", 5, 100, Plan(**five)),
        ("405B, 512 GPUs, interleaved", 5, 128, Plan(**five, chunks=2)),
    ]
    for ranks, speed in ((1, 3890), (2, 2540), (4, 1071), (8, 548)):
        long = {**base, "model": LLAMA_8B, "recompute": "full", "length": 32768 * ranks}
        name = f"8B, {32768 * ranks} tokens on {ranks} ranks"
        rows.append((name, 2, speed, Plan(**long, batch=8 // ranks, data=8 // ranks, context=ranks)))
    found = []
    for name, table, speed, plan in rows:
        seconds = plan.batch * plan.tokens / plan.gpus / speed
        closes = name == "8B, 128 GPUs"
        remark = "Float8 needs scales and casts, which are not counted; GPUs held to 500 W"
        found.append(
            _step(f"Llama 3.1 {name}, Float8", TITAN.format(table), seconds, plan, h100, remark, closes=closes)
        )
    v3 = Plan(model=DEEPSEEK_V3, batch=15360, data=2, expert=64, pipeline=16, zero=1, states=BF16_MOMENTS_ADAM,
              recompute="pointwise", kernel="fused", dropout=False)  # fmt: skip
    h800 = replace(h100, inside=Link(h100.inside.latency, 200e9))  # NVLink of 400 GB/s in both directions
    seconds = v3.batch * v3.tokens / (14.8e12 / (2664e3 * 3600) * v3.gpus)
    remark = "a token goes to at most four machines there, in FP8 and behind products"
    return [*found, _step("DeepSeek-V3, 2,048 H800", V3, seconds, v3, h800, remark)]


def _step(
    what: str,
    source: str,
    seconds: float,
    plan: Plan,
    cluster: Cluster,
    remark: str = "",
    *,
    closes: bool | None = None,
) -> Check:
    """A step; without a remark it is expected to close."""
    expected = not remark if closes is None else closes
    return Check(f"{what}: a step", source, seconds, step_time(plan, cluster).total, "s", 0.1, expected, remark)

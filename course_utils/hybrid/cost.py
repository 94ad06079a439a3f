"""What a plan sends on each axis, what a step takes on a cluster of machines, and which grid is best.

The bytes are exact and are compared with real runs. The seconds are a model: products at one speed, messages by alpha
and beta, of which a cluster may hide some behind products. Good for ranking grids, and for seeing what a step is spent
on.

Source: Scao et al. 2022, arXiv:2211.05100, section 3 (BLOOM).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from course_utils.hybrid.axes import AXES, outermost_first
from course_utils.hybrid.grid import Grid, factorisations
from course_utils.measure.communication import Link
from course_utils.pipeline.simulator import bubble_overhead
from course_utils.plan.machines import A100, GPU
from course_utils.plan.plan import Plan
from course_utils.plan.planner import Memory, gpu_memory
from course_utils.plan.transformer import forward_flops, step_flops

DAY = 86_400
DOES_NOT_FIT = "does not fit"  # how a candidate's reason begins where memory is short


def traffic(plan: Plan, stage: int) -> dict[str, float]:
    """Bytes that a rank of a pipeline stage sends in one step, on each axis that the plan divides.

    The tensor axis counts layers alone. Beside them stand one more message forward behind the divided token table, one
    backward before the head, and the loss's few numbers per token. The data axis sends gradients and, by the stage of
    ZeRO, weights, among all ranks that hold the same, so along the context and expert axes too. It does not send the
    gradients of a tied table, which its two stages add up among themselves.
    """
    sent = {axis: AXES[axis].traffic(plan, stage) for axis in outermost_first(AXES)}
    return {axis: size for axis, size in sent.items() if size or plan.ranks(axis) > 1}


def memory(plan: Plan) -> Memory:
    """What the fullest GPU holds: by the planner, and by the axes that the planner does not know."""
    found = [gpu_memory(plan, stage) for stage in plan.fullest_stages]
    for axis in AXES.values():
        if axis.memory is not None:
            found = [axis.memory(one, plan) for one in found]
    return max(found, key=lambda one: one.total)


@dataclass(frozen=True)
class Cluster:
    """Machines of ``per_node`` GPUs: a fast link inside each, a slow one between them.

    Args:
        between: what one GPU has of its machine's network.
        busy: share of its peak that a GPU reaches while it multiplies matrices.
        overlap: share of the time of its products behind which a GPU can hide messages of the axes that do so.
        name: what the machines are.
        fp8: whether the matrices of the layers are multiplied with 8-bit factors; scores and head are not.

    Raises:
        ValueError: for 8-bit factors on a GPU that has none.
    """

    per_node: int
    inside: Link
    between: Link
    gpu: GPU = A100
    busy: float = 0.6
    overlap: float = 0.0
    name: str = ""
    fp8: bool = False

    def __post_init__(self) -> None:
        if self.fp8 and not self.gpu.peak_fp8:
            raise ValueError(
                f"{self.gpu.name} multiplies no 8-bit floats: choose an H100 or later, or an L4 or RTX 4090"
            )

    def link(self, grid: Grid, axis: str) -> Link:
        """The link that decides an axis's pace: the slow one as soon as any of its groups leaves a machine. Gradients
        are added up along all axes whose ranks hold the same parameters."""
        along = ("data", "context", "expert") if axis == "data" else (axis,)
        crosses = any(grid.crosses(one, self.per_node) for one in along if one in grid.sizes)
        return self.between if crosses else self.inside


# 48 nodes of 8 A100: NVLink of 300 GB/s a GPU in each direction; four Omni-Path ports of 100 Gbit/s for eight GPUs.
# Latencies are of the usual order of magnitude, not measured there.
JEAN_ZAY = Cluster(per_node=8, inside=Link(5e-6, 300e9), between=Link(20e-6, 4 * 100e9 / 8 / 8))


class StepTime(NamedTuple):
    """Seconds of a step, by what they are spent on; the sum is the step."""

    compute: float
    bubble: float
    axes: dict[str, float]

    @property
    def total(self) -> float:
        return self.compute + self.bubble + sum(self.axes.values())


def step_time(plan: Plan, cluster: Cluster, order: Sequence[str] | None = None) -> StepTime:
    """How long a step takes with 1F1B: the stage with the most layers sets the pace.

    What stands in every micro-batch, products and messages, is lengthened by the bubble; what stands at the end of the
    step is not. Of messages only what cannot be hidden counts.
    """
    grid, m = grid_of(plan, order), plan.micro_batches
    layers = [len(plan.layers_of(stage)) for stage in range(plan.pipeline)]
    stage = layers.index(max(layers))
    compute = _products(plan, cluster)
    compute *= layers[stage] * plan.pipeline / plan.model.layers  # uneven stages wait for the largest
    repeated, axes, room = compute, {}, cluster.overlap * compute
    for axis in grid.sizes:
        link, entry = cluster.link(grid, axis), AXES[axis]
        if entry.seconds is None:
            each, once = 0.0, entry.traffic(plan, stage) / link.bandwidth
        else:
            each, once = entry.seconds(plan, stage, link)
        seconds = m * each + once
        hidden = min(seconds, room) if entry.hides else 0.0
        room -= hidden
        axes[axis] = seconds - hidden
        repeated += m * each * (1 - hidden / seconds if seconds else 1)
    return StepTime(compute, repeated * bubble_overhead(plan.pipeline, m, plan.chunks), axes)


def _products(plan: Plan, cluster: Cluster) -> float:
    """Seconds that a GPU multiplies matrices, if all have as many to multiply."""
    seconds = step_flops_done(plan) / (plan.gpus * cluster.gpu.peak * cluster.busy)
    if not cluster.fp8:
        return seconds
    parts = forward_flops(plan.model, length=plan.length)
    narrow = sum(parts[part] for part in ("qkv", "out", "mlp")) / sum(parts.values())
    return seconds * (1 - narrow + narrow * cluster.gpu.peak / cluster.gpu.peak_fp8)


def step_flops_needed(plan: Plan) -> float:
    """The model's FLOPs of a step. Frozen matrices need no gradient of their own, so LoRA saves a third."""
    return step_flops(plan.model, plan.batch, length=plan.length) * (2 / 3 if plan.lora else 1)


def step_flops_done(plan: Plan) -> float:
    """FLOPs of a step, with what backward computes again in the layers that do so."""
    whole = step_flops(plan.model, plan.batch, plan.recompute, plan.length)
    again = whole - step_flops(plan.model, plan.batch, length=plan.length)
    limit = plan.model.layers if plan.recompute_layers is None else plan.recompute_layers
    layers = sum(min(len(plan.layers_of(stage)), limit) for stage in range(plan.pipeline))
    return step_flops_needed(plan) + again * layers / plan.model.layers


def grid_of(plan: Plan, order: Sequence[str] | None = None) -> Grid:
    """The ranks of a plan, on all axes."""
    return Grid(order=order, **{axis: plan.ranks(axis) for axis in AXES})


class Candidate(NamedTuple):
    """A way to lay a run out: the plan, its seconds, or why it cannot be."""

    grid: Grid
    plan: Plan | None
    time: StepTime | None
    reason: str


def search(
    plan: Plan,
    cluster: Cluster,
    gpus: int,
    micro_batches: Sequence[int] = (1, 2, 4),
    axes: Sequence[str] = ("data", "pipeline", "tensor"),
    choices: Sequence[Mapping[str, Any]] = ({},),
    *,
    least_tokens: int = 1,
) -> Iterator[Candidate]:
    """Every grid of so many GPUs, with the fastest micro-batch and choice that fits, or the reason why none does.

    Args:
        plan: all but the ranks on these axes, the micro-batch and the choice is taken from here.
        micro_batches: sizes to try, in sequences.
        choices: fields of a plan to try with each, such as ``{"zero": 3, "recompute": "full"}``.
        least_tokens: how many tokens of a sequence each rank must have that shares it with others.
    """
    for grid in factorisations(gpus, axes):
        best, reason, smallest = None, "", math.inf
        if (ranks := grid.size("context")) > 1 and plan.tokens < ranks * least_tokens:
            yield Candidate(grid, None, None, f"fewer than {least_tokens} tokens of a sequence on each rank")
            continue
        for size, choice in itertools.product(micro_batches, choices):
            try:
                tried = plan.on(grid.sizes, micro_batch=size, **choice)
            except ValueError as error:
                reason = reason or str(error)
                continue
            if not (needed := memory(tried)).fits(cluster.gpu):
                smallest = min(smallest, needed.total)
                continue
            time = step_time(tried, cluster)
            if best is None or time.total < best[1].total:
                best = tried, time
        if smallest < math.inf:
            reason = f"{DOES_NOT_FIT}: at least {smallest / 2**30:.0f} GiB"
        yield Candidate(grid, *best, "") if best else Candidate(grid, None, None, reason)


def training_days(steps: int, seconds: float) -> float:
    """Days that so many steps take."""
    return steps * seconds / DAY

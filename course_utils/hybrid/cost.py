"""What a plan sends on each axis, what a step takes on a cluster of machines, and which grid is best.

The bytes are exact and are compared with real runs. The seconds are a model: products at one speed, messages by alpha
and beta, of which a cluster may hide some behind products. Good for ranking grids, and for seeing what a step is spent
on.

Source: Scao et al. 2022, arXiv:2211.05100, section 3 (BLOOM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from course_utils.hybrid.axes import AXES, outermost_first
from course_utils.hybrid.grid import Grid, factorisations
from course_utils.measure.communication import Link
from course_utils.pipeline.simulator import bubble_overhead
from course_utils.plan.machines import A100, GPU
from course_utils.plan.plan import Plan
from course_utils.plan.planner import Memory, gpu_memory
from course_utils.plan.transformer import step_flops

DAY = 86_400


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
    found = [gpu_memory(plan, stage) for stage in range(plan.pipeline)]
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
    """

    per_node: int
    inside: Link
    between: Link
    gpu: GPU = A100
    busy: float = 0.6
    overlap: float = 0.0
    name: str = ""

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
    compute = _flops(plan) / (plan.gpus * cluster.gpu.peak * cluster.busy)
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


def _flops(plan: Plan) -> float:
    """FLOPs of a step, with what backward computes again in the layers that do so."""
    needed = step_flops(plan.model, plan.batch, length=plan.length)
    done = step_flops(plan.model, plan.batch, plan.recompute, plan.length)
    stages = [len(plan.layers_of(stage)) for stage in range(plan.pipeline)]
    limit = plan.model.layers if plan.recompute_layers is None else plan.recompute_layers
    again = sum(min(layers, limit) for layers in stages) / plan.model.layers
    saved = plan.lora is not None  # frozen matrices need no gradient of their own: a third of the products less
    return needed * (2 / 3 if saved else 1) + (done - needed) * again


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
    micro_batches: tuple[int, ...] = (1, 2, 4),
    axes: Sequence[str] = ("data", "pipeline", "tensor"),
) -> Iterator[Candidate]:
    """Every grid of so many GPUs, with the fastest micro-batch that fits; else with the reason why none does.

    Args:
        plan: all but the ranks on these axes and the micro-batch is taken from here.
        micro_batches: sizes to try, in sequences.
    """
    for grid in factorisations(gpus, axes):
        best, reason = None, ""
        for size in micro_batches:
            try:
                tried = plan.on(grid.sizes, micro_batch=size)
            except ValueError as error:
                reason = reason or str(error)
                continue
            if not memory(tried).fits(cluster.gpu):
                reason = "does not fit"
                continue
            time = step_time(tried, cluster)
            if best is None or time.total < best[1].total:
                best = tried, time
        yield Candidate(grid, *best, "") if best else Candidate(grid, None, None, reason)


def training_days(steps: int, seconds: float) -> float:
    """Days that so many steps take."""
    return steps * seconds / DAY

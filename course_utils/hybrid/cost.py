"""Three axes at once: what each sends in a step, what a step takes on a cluster of machines, and which grid is best.

The bytes are exact and are compared with real runs. The seconds are a model: products at one speed, messages by
alpha and beta, nothing hidden behind anything. Good for ranking grids, and for seeing what a step is spent on.

Sources: Narayanan et al. 2021, arXiv:2104.04473, sections 2 and 3 (traffic of the axes, placement); Scao et al. 2022,
arXiv:2211.05100, section 3 (BLOOM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from course_utils.hybrid.grid import AXES, Grid, factorisations
from course_utils.measure.communication import Link, ring_all_reduce_bytes, ring_all_reduce_time
from course_utils.plan.planner import A100, GPU, Plan, fits, rank_parameters, stage_layers
from course_utils.plan.transformer import step_flops
from course_utils.tensor.cost import layer_all_reduces, layer_bytes

DAY = 86_400


class Traffic(NamedTuple):
    """One number for each axis: bytes that one rank sends in a step, or seconds that it takes."""

    data: float
    pipeline: float
    tensor: float


def tensor_traffic(message: float, layers: int, micro_batches: int, ranks: int, *, recompute: bool = False) -> float:
    """Bytes that a rank sends on the tensor axis in a step, by ``layer_bytes``; a message is batch x length x width."""
    return layers * micro_batches * layer_bytes(message, ranks, recompute=recompute)


def pipeline_traffic(message: float, micro_batches: int, stage: int, stages: int) -> float:
    """Bytes that a rank sends on the pipeline axis: activations on unless it is last, gradients back unless first."""
    return ((stage < stages - 1) + (stage > 0)) * micro_batches * message


def data_traffic(parameters: int, ranks: int, number: int = 4) -> float:
    """Bytes that a rank sends on the data axis: one all-reduce of its own gradients, or, with ZeRO-1, a reduce-scatter
    and an all-gather, which is as much."""
    return ring_all_reduce_bytes(parameters * number, ranks)


def layer_share(width: int, ranks: int) -> int:
    """Parameters of one layer on one rank of the tensor axis: 12 h^2 + 7 h are divided; two norms and the biases behind
    the two sums, 6 h, stand on every rank."""
    return (12 * width * width + 7 * width) // ranks + 6 * width


def traffic(plan: Plan, stage: int) -> Traffic:
    """Bytes that a rank of a stage sends in one step, on each axis.

    The tensor axis counts layers alone. Beside them stand one more message forward behind the divided token table, one
    backward before the head, and the loss's few numbers per token. The data axis counts gradients of
    ``plan.ledger.gradients`` bytes, and not those of a tied table, which its two stages add up among themselves.
    """
    first, last, layers = stage == 0, stage == plan.pipeline - 1, stage_layers(plan.model.layers, plan.pipeline)[stage]
    held = rank_parameters(plan.model, layers, tensor=plan.tensor, first=first, last=last)
    return Traffic(
        data_traffic(held, plan.data, plan.ledger.gradients),
        pipeline_traffic(_message(plan), plan.micro_batches, stage, plan.pipeline),
        tensor_traffic(_message(plan), layers, plan.micro_batches, plan.tensor, recompute=plan.recompute == "full"),
    )


@dataclass(frozen=True)
class Cluster:
    """Machines of ``per_node`` GPUs: a fast link inside each, a slow one between them.

    Args:
        between: what one GPU has of its machine's network.
        busy: share of its peak that a GPU reaches while it multiplies matrices.
    """

    per_node: int
    inside: Link
    between: Link
    gpu: GPU = A100
    busy: float = 0.6

    def link(self, grid: Grid, axis: str) -> Link:
        """The link that decides an axis's pace: the slow one as soon as any of its groups leaves a machine."""
        return self.between if grid.crosses(axis, self.per_node) else self.inside


# 48 nodes of 8 A100: NVLink of 300 GB/s a GPU in each direction; four Omni-Path ports of 100 Gbit/s for eight GPUs.
# Latencies are of the usual order of magnitude, not measured there.
JEAN_ZAY = Cluster(per_node=8, inside=Link(5e-6, 300e9), between=Link(20e-6, 4 * 100e9 / 8 / 8))


class StepTime(NamedTuple):
    """Seconds of a step, by what they are spent on; the sum is the step."""

    compute: float
    bubble: float
    tensor: float
    pipeline: float
    data: float

    @property
    def total(self) -> float:
        return sum(self)


def step_time(plan: Plan, cluster: Cluster, order: tuple[str, ...] = AXES) -> StepTime:
    """How long a step takes with 1F1B when nothing overlaps: the stage with the most layers sets the pace.

    Its products and its all-reduces stand in every micro-batch, so the bubble multiplies both; messages between stages
    hold up both sides; gradients are averaged at the end.
    """
    grid = Grid(plan.data, plan.pipeline, plan.tensor, order)
    layers, m = max(stage_layers(plan.model.layers, plan.pipeline)), plan.micro_batches
    compute = step_flops(plan.model, plan.batch, plan.recompute, plan.length) / (
        plan.gpus * cluster.gpu.peak * cluster.busy
    )
    compute *= layers * plan.pipeline / plan.model.layers  # uneven stages wait for the largest
    one = ring_all_reduce_time(_message(plan), plan.tensor, cluster.link(grid, "tensor"))
    tensor = layers * m * layer_all_reduces(plan.recompute == "full") * one
    one = cluster.link(grid, "pipeline").message(_message(plan)) if plan.pipeline > 1 else 0.0
    held = rank_parameters(plan.model, layers, tensor=plan.tensor, first=plan.pipeline == 1, last=plan.pipeline == 1)
    size = held * plan.ledger.gradients
    return StepTime(
        compute=compute,
        bubble=(compute + tensor) * (plan.pipeline - 1) / m,
        tensor=tensor,
        pipeline=2 * (m + plan.pipeline - 1) * one,
        data=ring_all_reduce_time(size, plan.data, cluster.link(grid, "data")) if plan.data > 1 else 0.0,
    )


class Candidate(NamedTuple):
    """A way to lay a run out: the plan, its seconds, or why it cannot be."""

    grid: Grid
    plan: Plan | None
    time: StepTime | None
    reason: str


def search(plan: Plan, cluster: Cluster, gpus: int, micro_batches: tuple[int, ...] = (1, 2, 4)) -> Iterator[Candidate]:
    """Every grid of so many GPUs, with the fastest micro-batch that fits; else with the reason why none does.

    Args:
        plan: all but the grid and the micro-batch is taken from here.
        micro_batches: sizes to try, in sequences.
    """
    for grid in factorisations(gpus):
        best, reason = None, ""
        for size in micro_batches:
            try:
                sizes = {axis: grid.size(axis) for axis in AXES}
                tried = replace(plan, micro_batch=size, **sizes)  # type: ignore[arg-type]
            except ValueError as error:
                reason = reason or str(error)
                continue
            if not fits(tried, cluster.gpu):
                reason = "does not fit"
                continue
            time = step_time(tried, cluster)
            if best is None or time.total < best[1].total:
                best = tried, time
        yield Candidate(grid, *best, "") if best else Candidate(grid, None, None, reason)


def training_days(steps: int, seconds: float) -> float:
    """Days that so many steps take."""
    return steps * seconds / DAY


def _message(plan: Plan) -> float:
    """Bytes of what passes between layers: batch x length x width."""
    return plan.micro_batch * plan.tokens * plan.model.width * plan.number

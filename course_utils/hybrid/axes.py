"""The axes along which a run is divided, in one table: to add an axis is to add its entry.

Grids, meshes, traffic, memory, step times and figures read the table. All take any subset of its axes.

The bytes are exact and are compared with real runs. Sources: Narayanan et al. 2021, arXiv:2104.04473, sections 2 and 3
(traffic of the axes, placement); Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from course_utils.measure.communication import Link, ring_all_reduce_time
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.memory import FP32_ADAM, ModelStates
from course_utils.plan.plan import Plan
from course_utils.plan.planner import Memory, rank_parameters
from course_utils.tensor.cost import layer_all_reduces, layer_bytes
from course_utils.zero import cost as zero

Seconds = tuple[float, float]  # in each micro-batch, and once at the end of the step


@dataclass(frozen=True)
class Axis:
    """One way to divide a run.

    Args:
        order: the place among the axes, counted from the innermost, whose ranks have consecutive numbers. The axis that
            talks most should be the innermost, for neighbours share a machine.
        letter, colour: for figures.
        place: what stands at one place of the axis.
        divides: what is divided over its ranks, in words.
        traffic: bytes that one rank of a pipeline stage sends in a step.
        seconds: how long such a rank is busy with messages on a link; by default its bytes alone, at the end.
        memory: what becomes of a GPU's memory, where :mod:`course_utils.plan.planner` does not know the axis.
    """

    name: str
    order: int
    letter: str
    colour: str
    place: str
    divides: str
    traffic: Callable[[Plan, int], float]
    seconds: Callable[[Plan, int, Link], Seconds] | None = None
    memory: Callable[[Memory, Plan], Memory] | None = None


def data_traffic(
    parameters: int, ranks: int, states: ModelStates = FP32_ADAM, *, stage: int = 0, micro_batches: int = 1
) -> float:
    """Bytes that a rank sends on the data axis: gradients, with ZeRO weights too, as ``zero.cost.sent_per_rank``."""
    return sum(zero.sent_per_rank(parameters, ranks, stage, states=states, micro_batches=micro_batches).values())


def pipeline_traffic(message: float, micro_batches: int, stage: int, stages: int) -> float:
    """Bytes that a rank sends on the pipeline axis: activations on unless it is last, gradients back unless first."""
    return ((stage < stages - 1) + (stage > 0)) * micro_batches * message


def tensor_traffic(message: float, layers: int, micro_batches: int, ranks: int, *, recompute: bool = False) -> float:
    """Bytes that a rank sends on the tensor axis in a step, by ``layer_bytes``; a message is batch x length x width."""
    return layers * micro_batches * layer_bytes(message, ranks, recompute=recompute)


def _held(plan: Plan, stage: int) -> int:
    first, last = stage == 0, stage == plan.pipeline - 1
    return rank_parameters(plan.model, _layers(plan, stage), tensor=plan.tensor, first=first, last=last)


def _layers(plan: Plan, stage: int) -> int:
    return stage_layers(plan.model.layers, plan.pipeline)[stage]


def _data(plan: Plan, stage: int) -> float:
    held = _held(plan, stage)
    return data_traffic(held, plan.data, plan.states, stage=plan.zero, micro_batches=plan.micro_batches)


def _data_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    """A reduce-scatter or an all-gather is half of a ring all-reduce. Stage 3 sends layer by layer."""
    held, units = _held(plan, stage), _layers(plan, stage) + 1 if plan.zero == 3 else 1

    def ring(number: int) -> float:
        return units * ring_all_reduce_time(held * number / units, plan.data, link) / 2

    scatter, gather = ring(plan.states.gradients), ring(plan.states.weights)
    match plan.zero:
        case 0:
            return 0.0, 2 * scatter
        case 1:
            return 0.0, scatter + gather
        case 2:
            return scatter, gather
        case _:
            return scatter + 2 * gather, 0.0


def _pipeline(plan: Plan, stage: int) -> float:
    return pipeline_traffic(plan.message, plan.micro_batches, stage, plan.pipeline)


def _pipeline_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    return (2 * link.message(plan.message) if plan.pipeline > 1 else 0.0), 0.0  # a message holds up both its ends


def _tensor(plan: Plan, stage: int) -> float:
    recompute = plan.recompute == "full"
    return tensor_traffic(plan.message, _layers(plan, stage), plan.micro_batches, plan.tensor, recompute=recompute)


def _tensor_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    sums = _layers(plan, stage) * layer_all_reduces(plan.recompute == "full")
    return sums * ring_all_reduce_time(plan.message, plan.tensor, link), 0.0


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("data", 30, "D", "blue", "replica", "the batch", _data, _data_seconds),
        Axis("pipeline", 20, "P", "orange", "stage", "the row of layers", _pipeline, _pipeline_seconds),
        Axis("tensor", 10, "T", "green", "slice", "the matrices of each layer", _tensor, _tensor_seconds),
    )
}


def outermost_first(names: Iterable[str]) -> tuple[str, ...]:
    """Axes in the order in which ranks are numbered if nobody says otherwise.

    Raises:
        ValueError: for an axis that is not in the table.
    """
    names = list(names)
    if unknown := [name for name in names if name not in AXES]:
        known = ", ".join(sorted(AXES, key=lambda name: -AXES[name].order))
        raise ValueError(f"axis {unknown[0]!r} does not exist: the axes are {known}")
    return tuple(sorted(names, key=lambda name: -AXES[name].order))

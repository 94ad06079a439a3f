"""The axes along which a run is divided, in one table: to add an axis is to add its entry.

Grids, meshes, traffic, memory, step times and figures read the table. All take any subset of its axes.

The bytes of the data, pipeline and tensor axes are exact and are compared with real runs. Sources: Narayanan et al.
2021, arXiv:2104.04473, sections 2 and 3 (traffic of the axes, placement); Rajbhandari et al. 2020, arXiv:1910.02054
(ZeRO); Liu et al. 2023, arXiv:2310.01889 (keys and values in a ring); Lepikhin et al. 2020, arXiv:2006.16668 (tokens to
experts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from course_utils.measure.communication import Link, all_gather_bytes, ring_all_reduce_time
from course_utils.plan.memory import FP32_ADAM, ModelStates
from course_utils.plan.plan import Plan
from course_utils.plan.planner import DenseAndExperts, Memory, adapters, stage_parameters
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
        hides: whether libraries send its messages while the rank computes on other things.
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
    hides: bool = False


def data_traffic(
    parameters: int, ranks: int, states: ModelStates = FP32_ADAM, *, stage: int = 0, micro_batches: int = 1
) -> float:
    """Bytes that a rank sends on the data axis: gradients, with ZeRO weights too, as ``zero.cost.sent_per_rank``."""
    return sum(zero.sent_per_rank(parameters, ranks, stage, states=states, micro_batches=micro_batches).values())


def pipeline_traffic(message: float, micro_batches: int, stage: int, stages: int, chunks: int = 1) -> float:
    """Bytes that a rank sends on the pipeline axis: of each chunk activations on and gradients back, but no activations
    from the model's end and no gradients from its beginning."""
    if stages == 1:
        return 0.0
    return (2 * chunks - (stage == 0) - (stage == stages - 1)) * micro_batches * message


def tensor_traffic(message: float, layers: int, micro_batches: int, ranks: int, *, recompute: bool = False) -> float:
    """Bytes that a rank sends on the tensor axis in a step, by ``layer_bytes``; a message is batch x length x width."""
    return layers * micro_batches * layer_bytes(message, ranks, recompute=recompute)


def context_traffic(block: float, layers: int, micro_batches: int, ranks: int, *, recompute: bool = False) -> float:
    """Bytes that a rank sends on the context axis: its keys and values go once round the ring forward; they and their
    gradients backward. A block is one rank's keys and values of a layer."""
    return layers * micro_batches * (4 if recompute else 3) * (ranks - 1) * block


def expert_traffic(copies: float, layers: int, micro_batches: int, ranks: int, *, recompute: bool = False) -> float:
    """Bytes that a rank sends on the expert axis: its tokens' copies to their experts and back, forward and backward,
    when all experts are called alike. ``copies`` are the bytes of them all."""
    return layers * micro_batches * (6 if recompute else 4) * copies * (ranks - 1) / ranks


def _layers(plan: Plan, stage: int) -> int:
    return len(plan.layers_of(stage))


def _trained(plan: Plan, stage: int) -> tuple[DenseAndExperts, DenseAndExperts]:
    """Parameters on a rank that get gradients, and all of them."""
    layers, first, last = plan.layers_of(stage), stage == 0, stage == plan.pipeline - 1
    everything = stage_parameters(plan.model, layers, tensor=plan.tensor, expert=plan.expert, first=first, last=last)
    if not plan.lora:
        return everything, everything
    return adapters(plan.model, layers, plan.lora, tensor=plan.tensor, expert=plan.expert), everything


def _as_sent(plan: Plan) -> tuple[int, ModelStates]:
    """The stage of ZeRO by whose rule a plan sends. Stage 3 that does not reshard gathers once and averages once, as
    stage 1 does, and gathers what its precision gathers."""
    if plan.zero == 3 and not plan.reshard:
        return 1, replace(plan.states, weights=plan.states.unit)
    return plan.zero, plan.states


def _data(plan: Plan, stage: int) -> float:
    zero_stage, states = _as_sent(plan)
    sent, m = 0.0, plan.micro_batches
    for trained, everything, ranks in zip(*_trained(plan, stage), plan.alike, strict=True):
        sent += data_traffic(trained, ranks, states, stage=zero_stage, micro_batches=m)
        if plan.zero == 3 and plan.lora:
            sent += (2 * m if plan.reshard else 1) * all_gather_bytes(plan.lora.base * everything, ranks)
    return sent


def _data_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    """A reduce-scatter or an all-gather is half of a ring all-reduce. Stage 3 sends layer by layer."""
    units = _layers(plan, stage) + 1 if plan.zero == 3 else 1
    (zero_stage, states), (trained, everything) = _as_sent(plan), _trained(plan, stage)

    def ring(parameters: DenseAndExperts, number: float) -> float:
        sizes = zip(parameters, plan.alike, strict=True)
        return sum(units * ring_all_reduce_time(n * number / units, ranks, link) / 2 for n, ranks in sizes if n)

    scatter, gather = ring(trained, states.gradients), ring(trained, states.weights)
    frozen = ring(everything, plan.lora.base) if plan.lora and plan.zero == 3 else 0.0
    match zero_stage:
        case 0:
            return 0.0, 2 * scatter
        case 1:
            return 0.0, scatter + gather + frozen
        case 2:
            return scatter, gather
        case _:
            return scatter + 2 * (ring(trained, states.unit) + frozen), 0.0


def _boundary(plan: Plan) -> float:
    """Bytes that a rank hands to the next stage: with sequence parallelism its own tokens alone."""
    return plan.message / (plan.tensor if plan.sequence_parallel else 1)


def _pipeline(plan: Plan, stage: int) -> float:
    return pipeline_traffic(_boundary(plan), plan.micro_batches, stage, plan.pipeline, plan.chunks)


def _pipeline_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    """A message holds up both its ends."""
    return (2 * plan.chunks * link.message(_boundary(plan)) if plan.pipeline > 1 else 0.0), 0.0


def _tensor(plan: Plan, stage: int) -> float:
    recompute = plan.recompute == "full"
    return tensor_traffic(plan.message, _layers(plan, stage), plan.micro_batches, plan.tensor, recompute=recompute)


def _tensor_seconds(plan: Plan, stage: int, link: Link) -> Seconds:
    sums = _layers(plan, stage) * layer_all_reduces(plan.recompute == "full")
    return sums * ring_all_reduce_time(plan.message, plan.tensor, link), 0.0


def _context(plan: Plan, stage: int) -> float:
    layer, tokens = plan.model.layer(), plan.micro_batch * plan.tokens // plan.context
    groups = plan.model.heads if plan.model.latent else plan.model.key_value_heads
    block = tokens * layer.key_value * plan.number / min(plan.tensor, groups)
    recompute = plan.recompute == "full"
    return context_traffic(block, _layers(plan, stage), plan.micro_batches, plan.context, recompute=recompute)


def _expert(plan: Plan, stage: int) -> float:
    if not (experts := plan.model.experts):
        return 0.0
    layers = sum(count for layer, count in plan.model.kinds_of(plan.layers_of(stage)) if layer.mixed)
    copies = experts.active * plan.message / (plan.tensor if plan.sequence_parallel else 1)
    return expert_traffic(copies, layers, plan.micro_batches, plan.expert, recompute=plan.recompute == "full")


def _in_every_micro_batch(traffic: Callable[[Plan, int], float]) -> Callable[[Plan, int, Link], Seconds]:
    def seconds(plan: Plan, stage: int, link: Link) -> Seconds:
        return traffic(plan, stage) / plan.micro_batches / link.bandwidth, 0.0

    return seconds


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("data", 30, "D", "blue", "replica", "the batch", _data, _data_seconds, hides=True),
        Axis("pipeline", 20, "P", "orange", "stage", "the row of layers", _pipeline, _pipeline_seconds),
        Axis(
            *("context", 14, "C", "sky", "segment", "the tokens of each sequence"),
            *(_context, _in_every_micro_batch(_context)),
            hides=True,
        ),
        Axis("expert", 12, "E", "purple", "expert group", "the experts", _expert, _in_every_micro_batch(_expert)),
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

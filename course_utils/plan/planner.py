"""What fills one GPU, and whether it fits: model, batch, precision and ranks in, bytes out.

Pure functions of a :class:`Plan`. Counted are model states, what ZeRO gathers, activations as autograd keeps them,
the layer that is being recomputed, and the logits with what the loss makes of them. Not counted are what a real run
adds to it: communication buffers, workspaces of kernels, fragmentation, the CUDA context. Leave a tenth free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from course_utils.pipeline.simulator import peak_live_1f1b
from course_utils.plan.activations import head_activations, kept_activations, logits
from course_utils.plan.decoder import Decoder
from course_utils.plan.layer import Layer
from course_utils.plan.machines import GPU
from course_utils.plan.plan import Lora, Plan
from course_utils.plan.transformer import Recompute


class Memory(NamedTuple):
    """Bytes that one GPU holds at its fullest."""

    weights: float
    gradients: float  # with their FP32 sum, where one is kept
    master_weights: float
    moments: float
    gathered: float  # whole weights and gradients of the layers at work, beside this rank's shards (ZeRO-2 and 3)
    activations: float  # of all layers and micro-batches that wait for their backward pass
    recomputed: float  # of the one layer that is being worked out again
    head: float  # logits and what surrounds them

    @property
    def total(self) -> float:
        return sum(self)

    @property
    def states(self) -> float:
        """All that depends on the model alone."""
        return sum(self[:5])

    def fits(self, gpu: GPU, *, reserve: float = 0.1) -> bool:
        """Whether it stays below the GPU's memory, with a share of it in reserve for what is not counted."""
        return self.total <= (1 - reserve) * gpu.memory


class DenseAndExperts(NamedTuple):
    """Parameters on one rank: outside of the experts, and of the experts, which fewer ranks hold alike."""

    dense: int
    experts: int


def layer_share(width: int, ranks: int) -> int:
    """Parameters of one layer of GPT on one rank of the tensor axis: 12 h^2 + 7 h are divided; two norms and the biases
    behind the two sums, 6 h, stand on every rank."""
    return -(-(12 * width * width + 7 * width) // ranks) + 6 * width


def rank_parameters(
    model: Decoder, layers: int | Sequence[int], *, tensor: int = 1, first: bool = True, last: bool = True
) -> int:
    """Parameters on one rank of a stage with these layers; see :func:`stage_parameters`."""
    return sum(stage_parameters(model, layers, tensor=tensor, first=first, last=last))


def stage_parameters(
    model: Decoder,
    layers: int | Sequence[int],
    *,
    tensor: int = 1,
    expert: int = 1,
    first: bool = True,
    last: bool = True,
) -> DenseAndExperts:
    """Parameters on one rank of a stage. A tied table stands on the first and on the last stage.

    Tables are divided by rows; positions and norms are not.

    Args:
        layers: their numbers, or how many of the last ones.
    """
    numbers = range(model.layers)[model.layers - layers :] if isinstance(layers, int) else layers
    dense = experts = 0
    for layer, count in model.kinds_of(numbers):
        outside, inside = layer.share(model.norm_numbers, tensor=tensor, expert=expert)
        dense, experts = dense + count * outside, experts + count * inside
    table = -(-model.vocab * model.width // tensor)
    if first:
        dense += table + model.embedding_parameters - model.vocab * model.width
    if last:
        alone = model.tied and first  # one stage: the table is there already
        dense += model.norm_numbers * model.width + (0 if alone else table)
    return DenseAndExperts(dense, experts)


def adapters(model: Decoder, layers: Sequence[int], lora: Lora, *, tensor: int = 1, expert: int = 1) -> DenseAndExperts:
    """Parameters of the updates on one rank. Of the two narrow matrices the one that faces the cut is divided."""
    found = {False: 0, True: 0}
    for layer, count in model.kinds_of(layers):
        for matrix in layer.matrices:
            if matrix.part in lora.parts:
                cut = {side: min(tensor, matrix.pieces) if matrix.cut == side else 1 for side in ("rows", "columns")}
                each = -(-matrix.inputs // cut["rows"]) + -(-matrix.outputs // cut["columns"])
                copies = -(-matrix.copies // expert) if matrix.expert else 1
                found[matrix.expert] += count * copies * lora.rank * each
    return DenseAndExperts(found[False], found[True])


def gpu_memory(plan: Plan, stage: int | None = None) -> Memory:
    """What one GPU of a pipeline stage holds, in bytes; by default of the stage that holds the most."""
    if stage is None:
        return max((gpu_memory(plan, s) for s in plan.fullest_stages), key=lambda memory: memory.total)
    first, last, layers = stage == 0, stage == plan.pipeline - 1, plan.layers_of(stage)
    states, (weights, gradients) = _states(plan, layers, first=first, last=last), _gathered(plan, layers, first, last)
    number = plan.number

    def kept(layer: Layer, recompute: Recompute) -> float:
        return kept_activations(
            plan.model, layer, plan.tokens, plan.micro_batch, tensor=plan.tensor,
            context=plan.context, sequence_parallel=plan.sequence_parallel, recompute=recompute, kernel=plan.kernel,
            dropout=plan.dropout, number=number,
        ).total  # fmt: skip

    again = len(layers) if plan.recompute_layers is None else min(plan.recompute_layers, len(layers))
    treated, others = plan.model.kinds_of(layers[:again]), plan.model.kinds_of(layers[again:])
    all_kept = sum(count * kept(layer, plan.recompute) for layer, count in treated)
    all_kept += sum(count * kept(layer, "none") for layer, count in others)
    waiting = peak_live_1f1b(plan.pipeline, plan.micro_batches, plan.chunks)[stage] / plan.chunks
    recomputed = max((kept(layer, "none") - kept(layer, plan.recompute) for layer, _ in treated), default=0.0)
    head = {"length": plan.tokens // plan.context, "sequences": plan.micro_batch, "tensor": plan.tensor}
    # Two moments are full: backward begins at the loss; or it works a layer out again, whose gradients come whole.
    at_loss = states._replace(
        gathered=weights if plan.reshard else weights + gradients,
        activations=waiting * all_kept,
        head=last * head_activations(plan.model, **head, number=number),
    )
    at_layer = at_loss._replace(
        gathered=weights + gradients,
        recomputed=recomputed,
        head=last * logits(plan.model, **head, number=number)[0],
    )
    return max(at_loss, at_layer, key=lambda memory: memory.total)


def _states(plan: Plan, layers: list[int], *, first: bool, last: bool) -> Memory:
    """Model states of a rank, without what ZeRO gathers."""
    states, on = plan.states, {"tensor": plan.tensor, "expert": plan.expert}
    everything = stage_parameters(plan.model, layers, **on, first=first, last=last)
    trained = adapters(plan.model, layers, plan.lora, **on) if plan.lora else everything

    def divided(what: DenseAndExperts, from_stage: int) -> float:
        return sum(n / (ranks if plan.zero >= from_stage else 1) for n, ranks in zip(what, plan.alike, strict=True))

    frozen = divided(everything, 3) * plan.lora.base if plan.lora else 0.0
    return Memory(
        weights=frozen + divided(trained, 3) * states.weights,
        gradients=divided(trained, 2) * (states.gradients + states.gradient_sum),
        master_weights=divided(trained, 1) * states.master_weights,
        moments=divided(trained, 1) * states.moments,
        gathered=0.0,
        activations=0.0,
        recomputed=0.0,
        head=0.0,
    )


def _gathered(plan: Plan, layers: list[int], first: bool, last: bool) -> tuple[float, float]:
    """Bytes of the weights and of the gradients that stand whole beside the shards.

    At work are a layer, the next one, and what lies outside of all layers. Stage 3 gathers their weights, and from
    stage 2 on their gradients are whole until they are averaged. What is not resharded is all layers of the rank.
    """
    on = {"tensor": plan.tensor, "expert": plan.expert}
    units = (layers[:2], layers[-2:]) if plan.reshard else (layers,)
    whole = max((stage_parameters(plan.model, unit, **on, first=first, last=last) for unit in units), key=sum)
    trained, size = whole, float(plan.states.unit)
    if plan.lora:
        trained = max((adapters(plan.model, unit, plan.lora, **on) for unit in units), key=sum)
        size = plan.lora.base

    def shared(what: DenseAndExperts) -> int:
        return sum(n for n, ranks in zip(what, plan.alike, strict=True) if ranks > 1)

    return (plan.zero >= 3) * shared(whole) * size, (plan.zero >= 2) * shared(trained) * plan.states.gradients


def fits(plan: Plan, gpu: GPU, *, reserve: float = 0.1) -> bool:
    """Whether the fullest GPU has room; see :meth:`Memory.fits`."""
    return gpu_memory(plan).fits(gpu, reserve=reserve)

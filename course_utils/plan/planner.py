"""What fills one GPU, and whether it fits: model, batch, precision and ranks in, bytes out.

Pure functions of a :class:`Plan`. Counted are model states, what ZeRO gathers, activations by Korthikanti's formulas,
and the layer that is being recomputed. Not counted are what a real run adds to it: communication buffers, workspaces of
kernels, fragmentation, the CUDA context. Leave a tenth free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from course_utils.pipeline.simulator import peak_live_1f1b
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.activations import KERNELS, Kernel, head_activations, layer_activations
from course_utils.plan.memory import FP32_ADAM, MASTER_ADAM, ModelStates
from course_utils.plan.transformer import RECOMPUTE, Decoder, Recompute

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """``memory`` in bytes; ``peak`` in FLOP/s, dense, 16-bit factors added up in FP32. From the makers' data sheets."""

    name: str
    memory: int
    peak: float


RTX_4090 = GPU("RTX 4090", 24 * GIB, 165.2e12)
A100_40 = GPU("A100 40 GB", 40 * GIB, 312e12)
A100 = GPU("A100 80 GB", 80 * GIB, 312e12)
H100 = GPU("H100 80 GB", 80 * GIB, 989.4e12)
GPUS = (RTX_4090, A100_40, A100, H100)


_AXES = ("data", "pipeline", "tensor")  # of which the formulas here know what they divide


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is to be trained.

    Args:
        batch: sequences of a step, over all replicas.
        micro_batch: sequences that go through the layers at a time on one replica.
        length: tokens of a sequence; by default the model's.
        states: bytes per parameter; FP32's also makes activations 4-byte numbers.
        data, pipeline, tensor: ranks on each axis.
        further: ranks on axes that are not known here, by name; see :mod:`course_utils.hybrid.axes`.
        zero: ZeRO stage: 1 divides master weights and moments over the data-parallel ranks, 2 gradients too,
            3 weights too.

    Raises:
        ValueError: for ranks that do not divide what they are to divide, with what would; for an unknown choice.
    """

    model: Decoder
    batch: int
    micro_batch: int = 1
    length: int | None = None
    states: ModelStates = MASTER_ADAM
    recompute: Recompute = "none"
    kernel: Kernel = "written_out"
    dropout: bool = True
    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    further: Mapping[str, int] = field(default_factory=dict)
    sequence_parallel: bool = False
    zero: int = 0

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch", "micro_batch", *_AXES)} | dict(self.further)
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} {value!r} is no count: choose a whole number of at least 1")
        for name, choices in {"recompute": RECOMPUTE, "kernel": KERNELS, "zero": (0, 1, 2, 3)}.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} {value!r} is unknown: choose {', '.join(map(str, choices))}")
        if self.model.heads % self.tensor:
            raise ValueError(f"{self.model.heads} heads cannot be divided over {self.tensor} tensor-parallel ranks")
        if self.model.layers < self.pipeline:
            raise ValueError(f"{self.model.layers} layers are too few for {self.pipeline} pipeline stages")
        if self.batch % (self.data * self.micro_batch):
            unit = self.data * self.micro_batch
            raise ValueError(
                f"a batch of {self.batch} cannot be cut into micro-batches of {self.micro_batch} on {self.data} "
                f"replicas: choose a multiple of {unit}, such as {max(1, self.batch // unit) * unit}"
            )

    def ranks(self, axis: str) -> int:
        """Ranks on an axis; 1 where the plan does not name it."""
        return int(getattr(self, axis)) if axis in _AXES else self.further.get(axis, 1)

    def on(self, sizes: Mapping[str, int], **changes: Any) -> Plan:
        """The same plan with other ranks on these axes, and with other fields if asked."""
        further = {axis: size for axis, size in sizes.items() if axis not in _AXES}
        changes |= {axis: size for axis, size in sizes.items() if axis in _AXES}
        return replace(self, further={**self.further, **further}, **changes)

    @property
    def gpus(self) -> int:
        return self.data * self.pipeline * self.tensor * math.prod(self.further.values())

    @property
    def micro_batches(self) -> int:
        """``m``: micro-batches of one replica in one step."""
        return self.batch // (self.data * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens of a sequence, ``s``."""
        return self.length or self.model.length

    @property
    def number(self) -> int:
        """Bytes of an activation."""
        return 4 if self.states == FP32_ADAM else 2

    @property
    def message(self) -> int:
        """Bytes of what passes between layers: micro-batch x tokens x width."""
        return self.micro_batch * self.tokens * self.model.width * self.number


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


def layer_share(width: int, ranks: int) -> int:
    """Parameters of one layer on one rank of the tensor axis: 12 h^2 + 7 h are divided; two norms and the biases behind
    the two sums, 6 h, stand on every rank."""
    return _divided(12 * width * width + 7 * width, ranks) + 6 * width


def rank_parameters(model: Decoder, layers: int, *, tensor: int = 1, first: bool = True, last: bool = True) -> int:
    """Parameters on one rank of a stage with so many layers. A tied table stands on the first and on the last stage.

    Of a layer each holds :func:`layer_share`. Tables are divided by rows; positions and norms are not.
    """
    h = model.width
    held = layers * layer_share(h, tensor)
    table = _divided(model.vocab * h, tensor)
    if first:
        held += table + model.embedding_parameters - model.vocab * h
    if last:
        alone = model.tied and first  # one stage: the table is there already
        held += 2 * h + (0 if alone else table)
    return held


def gpu_memory(plan: Plan, stage: int | None = None) -> Memory:
    """What one GPU of a pipeline stage holds, in bytes; by default of the stage that holds the most.

    Layers are divided as the runtime does, by ``stage_layers``.
    """
    if stage is None:
        return max((gpu_memory(plan, s) for s in range(plan.pipeline)), key=lambda memory: memory.total)
    model, states, shard = plan.model, plan.states, [plan.data if plan.zero >= z else 1 for z in range(4)]
    first, last, layers = stage == 0, stage == plan.pipeline - 1, stage_layers(model.layers, plan.pipeline)[stage]
    held = rank_parameters(model, layers, tensor=plan.tensor, first=first, last=last)

    def one_layer(recompute: Recompute) -> float:
        return layer_activations(
            plan.tokens, plan.micro_batch, model.width, model.heads, tensor=plan.tensor, kernel=plan.kernel,
            sequence_parallel=plan.sequence_parallel, recompute=recompute, dropout=plan.dropout, number=plan.number,
        ).total  # fmt: skip

    kept = one_layer(plan.recompute)
    waiting = peak_live_1f1b(plan.pipeline, plan.micro_batches)[stage]
    # At work are a layer, the next one, and what lies outside of all layers. Stage 3 gathers their weights, and from
    # stage 2 on their gradients are whole until they are averaged. Both stand beside the shards.
    at_work = rank_parameters(model, min(layers, 2), tensor=plan.tensor, first=first, last=last)
    whole = (plan.zero >= 2) * states.gradients + (plan.zero >= 3) * states.weights
    return Memory(
        weights=held * states.weights / shard[3],
        gradients=held * (states.gradients + states.gradient_sum) / shard[2],
        master_weights=held * states.master_weights / shard[1],
        moments=held * states.moments / shard[1],
        gathered=at_work * whole if plan.data > 1 else 0,
        activations=waiting * layers * kept,
        recomputed=one_layer("none") - kept,
        head=last * head_activations(model, plan.tokens, plan.micro_batch, tensor=plan.tensor, number=plan.number),
    )


def fits(plan: Plan, gpu: GPU, *, reserve: float = 0.1) -> bool:
    """Whether the fullest GPU has room; see :meth:`Memory.fits`."""
    return gpu_memory(plan).fits(gpu, reserve=reserve)


def _divided(count: int, ranks: int) -> int:
    return -(-count // ranks)  # the largest part

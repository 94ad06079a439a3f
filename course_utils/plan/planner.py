"""What fills one GPU, whether it fits, and how long a step takes: model, batch, precision and ranks in, bytes out.

Pure functions of a :class:`Plan`. Counted are model states, activations by Korthikanti's formulas, and the layer that
is being recomputed. Not counted are what a real run adds to it: communication buffers, workspaces of kernels,
fragmentation, the CUDA context. Leave a tenth free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from course_utils.plan.activations import Kernel, head_activations, in_flight, layer_activations
from course_utils.plan.memory import FP32_ADAM, MASTER_ADAM, Ledger
from course_utils.plan.transformer import Decoder, Recompute, step_flops, utilisation

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is to be trained.

    Args:
        batch: sequences of a step, over all replicas.
        micro_batch: sequences that go through the layers at a time on one replica.
        length: tokens of a sequence; by default the model's.
        ledger: bytes per parameter; FP32's also makes activations 4-byte numbers.
        data, pipeline, tensor: ranks on each axis; their product is the number of GPUs.
        zero: ZeRO stage: 1 divides master weights and moments over the data-parallel ranks, 2 gradients too,
            3 weights too.

    Raises:
        ValueError: for ranks that do not divide what they are to divide, with what would.
    """

    model: Decoder
    batch: int
    micro_batch: int = 1
    length: int | None = None
    ledger: Ledger = MASTER_ADAM
    recompute: Recompute = "none"
    kernel: Kernel = "written_out"
    dropout: bool = True
    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    sequence_parallel: bool = False
    zero: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch", "data", "pipeline", "tensor"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} {value!r} is no count: choose a whole number of at least 1")
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
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero {self.zero!r} is no stage: choose 0, 1, 2 or 3")

    @property
    def gpus(self) -> int:
        return self.data * self.pipeline * self.tensor

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
        return 4 if self.ledger == FP32_ADAM else 2


class Memory(NamedTuple):
    """Bytes that one GPU holds at its fullest."""

    weights: float
    gradients: float  # with their FP32 sum, where the ledger keeps one
    master_weights: float
    moments: float
    activations: float  # of all layers and micro-batches that wait for their backward pass
    recomputed: float  # of the one layer that is being worked out again
    head: float  # logits and what surrounds them

    @property
    def total(self) -> float:
        return sum(self)


def stage_layers(layers: int, stages: int) -> list[int]:
    """Layers of each pipeline stage, as even as can be. Stages at the ends get the fewer: they hold the token table."""
    each, rest = divmod(layers, stages)
    inner_first = sorted(range(stages), key=lambda stage: (stage in (0, stages - 1), stage))
    return [each + (stage in inner_first[:rest]) for stage in range(stages)]


def rank_parameters(model: Decoder, layers: int, *, tensor: int = 1, first: bool = True, last: bool = True) -> int:
    """Parameters on one rank of a stage with so many layers. A tied table stands on the first and on the last stage.

    Of a layer, 12 h^2 + 7 h are divided over the tensor-parallel ranks; norms and the biases of the two row-parallel
    matrices, 6 h, stand on each. Tables are divided by rows; positions and norms are not.
    """
    h = model.width
    held = layers * (_divided(12 * h * h + 7 * h, tensor) + 6 * h)
    table = _divided(model.vocab * h, tensor)
    if first:
        held += table + model.embedding_parameters - model.vocab * h
    if last:
        alone = model.tied and first  # one stage: the table is there already
        held += 2 * h + (0 if alone else table)
    return held


def gpu_memory(plan: Plan, stage: int | None = None) -> Memory:
    """What one GPU of a pipeline stage holds, in bytes; by default of the stage that holds the most."""
    if stage is None:
        return max((gpu_memory(plan, s) for s in range(plan.pipeline)), key=lambda memory: memory.total)
    model, ledger, shard = plan.model, plan.ledger, [plan.data if plan.zero >= z else 1 for z in range(4)]
    first, last, layers = stage == 0, stage == plan.pipeline - 1, stage_layers(model.layers, plan.pipeline)[stage]
    held = rank_parameters(model, layers, tensor=plan.tensor, first=first, last=last)

    def one_layer(recompute: Recompute) -> float:
        return layer_activations(
            plan.tokens, plan.micro_batch, model.width, model.heads, tensor=plan.tensor, kernel=plan.kernel,
            sequence_parallel=plan.sequence_parallel, recompute=recompute, dropout=plan.dropout, number=plan.number,
        ).total  # fmt: skip

    kept = one_layer(plan.recompute)
    waiting = in_flight(stage, plan.pipeline, plan.micro_batches)
    return Memory(
        weights=held * ledger.weights / shard[3],
        gradients=held * (ledger.gradients + ledger.gradient_sum) / shard[2],
        master_weights=held * ledger.master_weights / shard[1],
        moments=held * ledger.moments / shard[1],
        activations=waiting * layers * kept,
        recomputed=one_layer("none") - kept,
        head=last * head_activations(model, plan.tokens, plan.micro_batch, tensor=plan.tensor, number=plan.number),
    )


def fits(plan: Plan, gpu: GPU, *, reserve: float = 0.1) -> bool:
    """Whether the fullest GPU stays below its memory, with a share of it in reserve for what is not counted."""
    return gpu_memory(plan).total <= (1 - reserve) * gpu.memory


def step_seconds(plan: Plan, gpu: GPU, *, busy: float = 0.5) -> float:
    """Seconds of a step: its FLOPs at ``busy`` times the peak while a GPU computes, and the pipeline's bubble on top.

    Args:
        busy: what a GPU reaches of its peak while it has work; communication that is not hidden lowers it.
    """
    flops = step_flops(plan.model, plan.batch, plan.recompute, plan.length)
    bubble = (plan.pipeline - 1) / plan.micro_batches  # overhead over the ideal time
    return flops / (plan.gpus * gpu.peak * busy) * (1 + bubble)


def model_flops_utilisation(plan: Plan, gpu: GPU, seconds: float) -> float:
    """MFU of a step that took so many seconds: model FLOPs alone, whatever was computed twice."""
    return utilisation(step_flops(plan.model, plan.batch, length=plan.length), seconds, plan.gpus, gpu.peak)


def _divided(count: int, ranks: int) -> int:
    return -(-count // ranks)  # the largest part

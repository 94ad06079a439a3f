"""How a model is to be trained: batch, precision, what is recomputed, and the ranks on each axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from course_utils.pipeline.schedule import check_groups
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.activations import KERNELS, Kernel
from course_utils.plan.decoder import Decoder
from course_utils.plan.memory import MASTER_ADAM, ModelStates
from course_utils.plan.transformer import RECOMPUTE, Recompute

_AXES = ("data", "pipeline", "tensor", "context", "expert")  # of which the formulas know what they divide


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of some matrices, beside a frozen model (Hu et al. 2021, arXiv:2106.09685).

    Args:
        rank: of each update.
        parts: of which matrices; see :class:`course_utils.plan.layer.Matrix`.
        base: bytes of a frozen weight. In NF4 4.127 bits with the scales quantised too (Dettmers et al. 2023,
            arXiv:2305.14314, section 3), so 0.516.
    """

    rank: int
    parts: tuple[str, ...] = ("qkv", "out", "mlp")
    base: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is to be trained.

    Args:
        batch: sequences of a step, over all replicas.
        micro_batch: sequences that go through the layers at a time on one replica.
        length: tokens of a sequence; by default the model's.
        states: bytes per parameter, and of an activation.
        recompute: what backward computes again.
        recompute_layers: in how many layers of each stage; by default in all.
        data, pipeline, tensor: ranks on each axis.
        context: ranks that share the tokens of a sequence.
        expert: replicas that share the experts: each has its own sequences, and all of what is no expert.
        chunks: stages of each pipeline rank; more than one: interleaved 1F1B.
        further: ranks on axes that are not known here, by name; see :mod:`course_utils.hybrid.axes`.
        zero: ZeRO stage: 1 divides master weights and moments over the ranks that hold the same parameters, 2
            gradients too, 3 weights too.
        reshard: whether ZeRO-3 gives gathered weights back after each use. If not, a rank keeps its layers whole until
            the step ends: it gathers once and averages once, as FSDP does beside a pipeline.
        lora: only such updates train; the model is frozen.

    Raises:
        ValueError: for ranks that do not divide what they are to divide, with what would; for an unknown choice.
    """

    model: Decoder
    batch: int
    micro_batch: int = 1
    length: int | None = None
    states: ModelStates = MASTER_ADAM
    recompute: Recompute = "none"
    recompute_layers: int | None = None
    kernel: Kernel = "written_out"
    dropout: bool = True
    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    chunks: int = 1
    further: Mapping[str, int] = field(default_factory=dict)
    sequence_parallel: bool = False
    zero: int = 0
    reshard: bool = True
    lora: Lora | None = None

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch", "micro_batch", "chunks", *_AXES)} | dict(self.further)
        counts |= {"length": self.tokens} | ({"rank of lora": self.lora.rank} if self.lora else {})
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} {value!r} is no count: choose a whole number of at least 1")
        for name, choices in {"recompute": RECOMPUTE, "kernel": KERNELS, "zero": (0, 1, 2, 3)}.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} {value!r} is unknown: choose {', '.join(map(str, choices))}")
        self._check_model()
        if self.batch % (self.replicas * self.micro_batch):
            unit = self.replicas * self.micro_batch
            raise ValueError(
                f"a batch of {self.batch} cannot be cut into micro-batches of {self.micro_batch} on {self.replicas} "
                f"replicas: choose a multiple of {unit}, such as {max(1, self.batch // unit) * unit}"
            )
        if self.chunks > 1:
            check_groups(self.pipeline, self.micro_batches)

    def _check_model(self) -> None:
        """Whether the axes divide what the model has."""
        model, stages = self.model, self.pipeline * self.chunks
        if model.heads % self.tensor:
            raise ValueError(f"{model.heads} heads cannot be divided over {self.tensor} tensor-parallel ranks")
        groups = model.heads if model.latent else model.key_value_heads
        if groups % self.tensor and self.tensor % groups:
            raise ValueError(f"{groups} key-value heads cannot be divided over {self.tensor} tensor-parallel ranks")
        if model.layers < stages:
            raise ValueError(f"{model.layers} layers are too few for {stages} pipeline stages")
        if self.tokens % self.context:
            raise ValueError(f"{self.tokens} tokens cannot be divided over {self.context} context-parallel ranks")
        if self.expert > 1 and (not model.experts or model.experts.number % self.expert):
            held = model.experts.number if model.experts else "no"
            raise ValueError(f"{held} experts of {model.name} cannot be divided over {self.expert} ranks")

    def ranks(self, axis: str) -> int:
        """Ranks on an axis; 1 where the plan does not name it."""
        return int(getattr(self, axis)) if axis in _AXES else self.further.get(axis, 1)

    def on(self, sizes: Mapping[str, int], **changes: Any) -> Plan:
        """The same plan with other ranks on these axes, and with other fields if asked."""
        further = {axis: size for axis, size in sizes.items() if axis not in _AXES}
        changes |= {axis: size for axis, size in sizes.items() if axis in _AXES}
        return replace(self, further={**self.further, **further}, **changes)

    def layers_of(self, stage: int) -> list[int]:
        """The numbers of the layers that a pipeline rank holds: stages are dealt out in turn, and divided as the
        runtime does, by ``stage_layers``."""
        sizes = stage_layers(self.model.layers, self.pipeline * self.chunks)
        starts = [sum(sizes[:one]) for one in range(len(sizes))]
        mine = range(stage, len(sizes), self.pipeline)
        return [number for one in mine for number in range(starts[one], starts[one] + sizes[one])]

    @property
    def fullest_stages(self) -> list[int]:
        """The stages of which one holds the most: both ends, and the first of those between, which of these has the
        most layers and the most micro-batches waiting."""
        return sorted({0, min(1, self.pipeline - 1), self.pipeline - 1})

    @property
    def gpus(self) -> int:
        return math.prod(self.ranks(axis) for axis in _AXES) * math.prod(self.further.values())

    @property
    def replicas(self) -> int:
        """Sets of ranks that have sequences of their own."""
        return self.data * self.expert

    @property
    def alike(self) -> tuple[int, int]:
        """Ranks that hold the same parameters: outside of the experts, and of the experts."""
        return self.data * self.context * self.expert, self.data * self.context

    @property
    def micro_batches(self) -> int:
        """``m``: micro-batches of one replica in one step."""
        return self.batch // (self.replicas * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens of a sequence, ``s``."""
        return self.model.length if self.length is None else self.length

    @property
    def number(self) -> int:
        """Bytes of an activation."""
        return self.states.number

    @property
    def message(self) -> int:
        """Bytes of what passes between layers on one rank: micro-batch x tokens x width."""
        return self.micro_batch * (self.tokens // self.context) * self.model.width * self.number

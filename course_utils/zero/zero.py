"""ZeRO: data parallelism that shards what replicas hold redundantly, around an untouched module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from course_utils.data_parallel.replicas import Group
from course_utils.zero.stage_3 import Stage3
from course_utils.zero.stages_0_to_2 import Stage0, Stage1, Stage2
from course_utils.zero.step import DTYPES, MakeOptimizer, Precision, Zero
from course_utils.zero.trace import Event

STAGES: dict[int, type[Zero]] = {kind.stage: kind for kind in (Stage0, Stage1, Stage2, Stage3)}


def zero(
    module: nn.Module,
    optimizer: MakeOptimizer,
    stage: int,
    *,
    precision: Precision = "fp32",
    offload: bool = False,
    clip: float | None = None,
    layers: Iterable[nn.Module] | None = None,
    prefetch: bool = True,
    group: Group = None,
    trace: list[Event] | None = None,
) -> Zero:
    """Wrap a module so that the ranks of a group train it together, each holding less the higher the stage.

    ::

        model = zero(module, partial(torch.optim.AdamW, lr=1e-3), stage=2)
        for x, y in my_part_of_the_data:
            loss_of(model(x), y).backward()
            model.step()  # clips, updates, frees the gradients

    Losses are means over this rank's samples, and ranks have equally many, as in data parallelism. When it is made,
    rank 0's weights are copied to all. A parameter without a gradient on some rank counts there as zero.

    Args:
        module: FP32. Its parameters stay the same objects, but are views of flat vectors from now on, and are empty in
            stage 3 while nobody computes with them: read weights with ``model.full_state_dict()``.
        optimizer: makes the optimizer from the list of this rank's shards, FP32 and 1-D. It must treat each number by
            itself, as SGD and Adam do: LAMB, Muon or Adafactor would see neither layers nor matrices.
        stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.
        precision: ``"bf16"`` keeps weights and gradients in BF16 and FP32 master weights beside the moments (12 bytes
            for each parameter, sharded from stage 1); floating-point inputs are cast.
        offload: keep master weights and optimizer state in host memory, and compute the update there.
        clip: largest norm of the whole model's gradient.
        layers: submodules that are sent, gathered and released as one; by default the elements of the outermost
            ``ModuleList`` and ``Sequential``. Stage 3 gathers everything else for the whole pass, so let no large
            matrix lie outside.
        prefetch: (stage 3) start the next layer's gather while a layer computes.
        group: by default all ranks.
        trace: a list to which every :class:`~course_utils.zero.trace.Event` is added.

    Raises:
        TypeError, ValueError: for what does not go together; the message says what to change.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} does not exist: 0 (nothing), 1 (optimizer), 2 (gradients) or 3 (parameters)")
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is unknown: choose {' or '.join(map(repr, DTYPES))}")
    if offload and stage == 0:
        raise ValueError(
            "offload with stage 0 would let every rank's host update all weights: choose stage 1 or more, where each "
            "updates its shard"
        )
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise TypeError(
            f"optimizer is {type(optimizer).__name__}: give what makes one from this rank's shards, such as "
            "functools.partial(torch.optim.AdamW, lr=1e-3)"
        )
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip!r}: a norm above 0, such as 1.0, or None for no clipping")
    _check_module(module)
    options = {"prefetch": prefetch} if stage == 3 else {}
    return STAGES[stage](
        module, optimizer, precision=precision, offload=offload, clip=clip, layers=layers, group=group, trace=trace,
        **options,
    )  # fmt: skip


def _check_module(module: nn.Module) -> None:
    if any(isinstance(part, Zero) for part in module.modules()):
        raise ValueError("the module is wrapped by zero() already: wrap the plain module")
    named = dict(module.named_parameters())
    if not any(p.requires_grad for p in named.values()):
        raise ValueError("no parameter requires a gradient: there is nothing to train; unfreeze some first")
    for name, p in named.items():
        if p.dtype != torch.float32:
            raise ValueError(
                f"{name} is {str(p.dtype).removeprefix('torch.')}: give the module in float32 (module.float()); "
                'precision="bf16" makes the 16-bit copy and keeps the FP32 one for the optimizer'
            )
    if len(devices := {str(p.device) for p in named.values()}) > 1:
        raise ValueError(f"parameters lie on {', '.join(sorted(devices))}: move the whole module to this rank's device")

"""ZeRO: data parallelism that shards what replicas hold redundantly, around an untouched module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from course_utils.precision import Precision
from course_utils.zero.stage_3 import Stage3
from course_utils.zero.stages import DTYPES, MakeOptimizer, Stage1, Stage2, Zero

STAGES: dict[int, type[Zero]] = {kind.stage: kind for kind in (Zero, Stage1, Stage2, Stage3)}
NEED_MATRICES = (torch.optim.Muon, torch.optim.Adafactor)  # others say so themselves: needs_matrices = True


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
    group: dist.ProcessGroup | None = None,
) -> Zero:
    """Wrap a module so that the ranks of a group train it together, each holding less the higher the stage.

    ::

        model = zero(module, partial(torch.optim.AdamW, lr=1e-3), stage=2)
        for x, y in my_part_of_the_data:
            loss_of(model(x), y).backward()
            model.step()  # clips, updates, frees the gradients

    The step is that of the mean of the ranks' losses. This is the loss of the whole batch when each rank's loss is a
    mean over equally many samples. Weighted losses and losses that ignore some targets are means over other counts:
    :func:`~course_utils.data_parallel.global_mean` makes them right. When the model is made, rank 0's weights are
    copied to all. A parameter without a gradient on some rank counts there as zero.

    Args:
        module: FP32. Its parameters stay the same objects, but are views of flat vectors from now on, and are empty in
            stage 3 while nobody computes with them: read weights with ``model.full_state_dict()``.
        optimizer: makes the optimizer from the list of this rank's shards, FP32 and 1-D. It must treat each number by
            itself, as SGD and Adam do. Muon and Adafactor, which need matrices, are refused; so is every optimizer that
            says ``needs_matrices = True``. LAMB needs whole layers, and would not notice that it has none.
        stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.
        precision: ``"fp32"``; or ``"bf16"``, which keeps weights and gradients in BF16, and FP32 master weights beside
            the moments (12 bytes for each parameter, sharded from stage 1). Floating-point inputs are cast.
        offload: keep master weights and optimizer state in host memory, and compute the update there.
        clip: largest norm of the whole model's gradient.
        layers: submodules that are sent, gathered and released as one; by default the elements of the outermost
            ``ModuleList`` and ``Sequential``. Stage 3 gathers everything else for the whole pass, so let no large
            matrix lie outside.
        prefetch: (stage 3) start the next layer's gather while a layer computes.
        group: by default all ranks.

    Raises:
        TypeError, ValueError: for what does not go together; the message says what to change.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} does not exist: 0 (nothing), 1 (optimizer), 2 (gradients) or 3 (parameters)")
    if precision not in DTYPES:
        why = ", which would need a loss scale," if precision == "fp16" else ""
        raise ValueError(f"zero() cannot train in {precision!r}{why}: choose {' or '.join(map(repr, DTYPES))}")
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
    _check_optimizer(getattr(optimizer, "func", optimizer))  # of a partial, the class: one may refuse 1-D by itself
    _check_module(module)
    options = {"prefetch": prefetch} if stage == 3 else {}
    model = STAGES[stage](
        module, optimizer, precision=precision, offload=offload, clip=clip, layers=layers, group=group, **options
    )
    _check_optimizer(type(model.optimizer))
    return model


def _check_optimizer(kind: object) -> None:
    if isinstance(kind, type) and (issubclass(kind, NEED_MATRICES) or getattr(kind, "needs_matrices", False)):
        raise ValueError(
            f"{kind.__name__} works on whole matrices, and a rank has flat shards, cut wherever N equal parts end: "
            "choose an optimizer that treats each number by itself, such as torch.optim.AdamW"
        )


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

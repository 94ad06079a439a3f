"""The course's ZeRO, stages 1 to 3, against ZeroRedundancyOptimizer and FSDP2: a training step of a ViT on 2 ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models.vit import ViT, ViTConfig
from course_utils.models.vit_config import pair
from course_utils.zero import zero

GOAL = 1.00
VIT = ViTConfig(image_size=32, patch_size=8, width=256, depth=6, heads=4, num_classes=10)  # 4.8 million parameters
ADAMW = functools.partial(torch.optim.AdamW, lr=1e-4)
OPPONENTS = {1: "ZeroRedundancyOptimizer", 2: "FSDP2, not resharded after forward", 3: "FSDP2"}

Step = Callable[[], float]


def run(repetitions: int) -> Iterator[Result]:
    """Stage by stage: the same step, the same optimizer, in turn in one run."""
    runs, details = launch(time_all, 2, VIT, 8, 3 * repetitions, show=False, timeout=600)[0]
    for stage, opponent in OPPONENTS.items():
        own = {"ours": runs[f"stage {stage}"], opponent: runs[opponent]}
        yield compare(f"zero_stage_{stage}_2_ranks", own, GOAL, bytes_sent=details[f"stage {stage}"],
                      bytes_sent_by_reference=details[opponent], torch=torch.__version__)  # fmt: skip


def time_all(config: ViTConfig, images: int, repetitions: int) -> tuple[dict[str, list[Run]], dict[str, float]]:
    """What each rank does: a step with each contestant in turn, after showing that all take the same steps."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(images, config.channels, *pair(config.image_size), generator=generator)  # [B, C, H, W]
    y = torch.randint(config.num_classes, (images,), generator=generator)
    steps: dict[str, Step] = {f"stage {stage}": _ours(config, stage, x, y) for stage in (1, 2, 3)}
    steps |= dict(zip(OPPONENTS.values(), _theirs(config, x, y), strict=True))
    sent: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for name, step in steps.items():
        losses[name] = [step(), step()]
        with Ledger() as ledger:
            losses[name].append(step())
        sent[name] = ledger.wire_bytes()
    if max(max(abs(a - b) for a, b in zip(own, losses["stage 1"], strict=True)) for own in losses.values()) > 1e-4:
        raise AssertionError(f"the losses of three steps differ, so this is no comparison: {losses}")
    return interleave(steps, repetitions, warm_ups=2), sent


def _ours(config: ViTConfig, stage: int, x: Tensor, y: Tensor) -> Step:
    torch.manual_seed(0)
    model = zero(ViT(config), ADAMW, stage)

    def step() -> float:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        model.step()
        dist.barrier()
        return loss.item()

    return step


def _theirs(config: ViTConfig, x: Tensor, y: Tensor) -> Iterator[Step]:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    replica = DistributedDataParallel(ViT(config), gradient_as_bucket_view=True)
    arguments: dict[str, Any] = {"optimizer_class": torch.optim.AdamW, "lr": 1e-4}
    yield _step(replica, ZeroRedundancyOptimizer(replica.parameters(), **arguments), x, y)
    for reshard in (False, True):
        torch.manual_seed(0)
        model = ViT(config)
        for layer in model.encoder.layers:
            fully_shard(layer, reshard_after_forward=reshard)
        fully_shard(model)  # its own parameters stay gathered between forward and backward
        yield _step(model, ADAMW(model.parameters()), x, y)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Step:
    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        dist.barrier()
        return loss.item()

    return step

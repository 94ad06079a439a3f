"""The course's ZeRO, stages 0 to 3, against DeepSpeed's at the same stages: a training step of a ViT on 2 ranks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.deepspeed.config import deepspeed_config
from course_utils.deepspeed.engine import deepspeed_engine, preload
from course_utils.launch import launch
from course_utils.models.vit import ViT, ViTConfig
from course_utils.models.vit_config import pair
from course_utils.zero import zero

GOAL = 1.00
VIT = ViTConfig(image_size=32, patch_size=8, width=256, depth=6, heads=4, num_classes=10)  # 4.8 million parameters
STAGES = (0, 1, 2, 3)
ADAMW: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01}

Step = Callable[[], float]


def run(repetitions: int) -> Iterator[Result]:
    """Stage by stage: the same step, the same optimizer, in turn in one run. DeepSpeed's torch AdamW on both sides."""
    preload()
    runs = launch(time_all, 2, VIT, 8, 3 * repetitions, show=False, timeout=600)[0]
    for stage in STAGES:
        own = {"ours": runs[f"ours {stage}"], "deepspeed": runs[f"deepspeed {stage}"]}
        yield compare(f"zero_stage_{stage}_deepspeed_2_ranks", own, GOAL, torch=torch.__version__)


def time_all(config: ViTConfig, images: int, repetitions: int) -> dict[str, list[Run]]:
    """What each rank does: a step with each contestant in turn, after showing that all take the same steps."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(images, config.channels, *pair(config.image_size), generator=generator)  # [B, C, H, W]
    y = torch.randint(config.num_classes, (images,), generator=generator)
    with contextlib.ExitStack() as engines:
        steps: dict[str, Step] = {}
        for stage in STAGES:
            torch.manual_seed(0)
            ours = zero(ViT(config), functools.partial(torch.optim.AdamW, **ADAMW), stage)
            steps[f"ours {stage}"] = _step(ours, torch.Tensor.backward, ours.step, x, y)
            torch.manual_seed(0)
            # As people call it, but for the small parameters, which DeepSpeed's default would not shard.
            settings = deepspeed_config(stage=stage, micro_batch=images, ranks=dist.get_world_size(), **ADAMW)
            engine = engines.enter_context(deepspeed_engine(ViT(config), settings))
            steps[f"deepspeed {stage}"] = _step(engine, engine.backward, engine.step, x, y)
        losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
        if max(max(abs(a - b) for a, b in zip(own, losses["ours 0"], strict=True)) for own in losses.values()) > 1e-4:
            raise AssertionError(f"the losses of three steps differ, so this is no comparison: {losses}")
        return interleave(steps, repetitions, warm_ups=2)


def _step(forward: Any, backward: Callable[[Tensor], Any], update: Callable[[], Any], x: Tensor, y: Tensor) -> Step:
    def step() -> float:
        loss = F.cross_entropy(forward(x), y)
        backward(loss)
        update()
        dist.barrier()
        return loss.item()

    return step

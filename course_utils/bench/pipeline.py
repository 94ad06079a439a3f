"""A training step by the course's 1F1B, against torch.distributed.pipelining's Schedule1F1B: a ViT on 4 ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.launch import launch
from course_utils.models import ViT, ViTConfig
from course_utils.pipeline import Pipeline, split_into_stages
from course_utils.pipeline.recipes import one_f_one_b

GOAL = 1.10
RANKS, MICRO_BATCHES = 4, 8
CONFIG = ViTConfig(image_size=32, patch_size=4, channels=3, width=192, depth=8, heads=3, num_classes=10)
BATCH = 64


def run(repetitions: int) -> Iterator[Result]:
    """Time both on the same model and batch; rank 0's clock counts, and a barrier keeps the ranks together."""
    yield measure(CONFIG, BATCH, repetitions)


def measure(config: ViTConfig, batch: int, repetitions: int) -> Result:
    """See :func:`run`.

    Raises:
        RankFailed: if loss or gradients differ.
    """
    runs = launch(time_both, RANKS, config, batch, repetitions, show=False, timeout=900)[0]
    facts: dict[str, Any] = {"ranks": RANKS, "micro_batches": MICRO_BATCHES, "batch": batch, "torch": torch.__version__}
    return compare("pipeline_1f1b_4_ranks", runs, GOAL, **facts)


def time_both(config: ViTConfig, batch: int, repetitions: int) -> dict[str, list[Run]]:
    """What each rank does: train its stage with both, in turn."""
    images = torch.randn(batch, config.channels, 32, 32)
    labels = torch.randint(config.num_classes, (batch,))
    rank, last = dist.get_rank(), dist.get_rank() == RANKS - 1
    model = ViT(config)
    theirs = split_into_stages(copy.deepcopy(model), RANKS)[rank]
    ours = Pipeline(model, one_f_one_b(RANKS, MICRO_BATCHES), F.cross_entropy)
    schedule = Schedule1F1B(PipelineStage(theirs, rank, RANKS, torch.device("cpu")), MICRO_BATCHES, F.cross_entropy)

    def torch_run() -> Tensor | None:
        losses: list[Tensor] = []
        wanted: dict[str, Any] = {"target": labels, "losses": losses} if last else {}
        schedule.step(*[images] * (rank == 0), **wanted)
        return torch.stack(losses).mean() if last else None

    passes: dict[str, Callable[[], Tensor | None]] = {"ours": lambda: ours.run(images, labels), "torch": torch_run}
    weights = {"ours": list(ours.parameters()), "torch": list(theirs.parameters())}
    losses = {name: run() for name, run in passes.items()}
    gradients = {name: [w.grad for w in own if w.grad is not None] for name, own in weights.items()}
    torch.testing.assert_close(gradients["ours"], gradients["torch"])
    torch.testing.assert_close(losses["ours"], losses["torch"])
    return interleave({name: _step(passes[name], weights[name]) for name in passes}, repetitions, warm_ups=2)


def _step(run: Callable[[], object], weights: list[nn.Parameter]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(weights, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        run()
        optimizer.step()
        dist.barrier()

    return step

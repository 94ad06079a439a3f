"""A training step of the course's tensor parallelism against DTensor's parallelize_module: a ViT on 2 ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models import ViT, ViTConfig
from course_utils.models.vit_config import pair
from course_utils.tensor import PLANS, tensor_parallel

RANKS = 2
BATCH = 16
GOAL = 1.0
CONFIG = ViTConfig.preset("tiny4", depth=6, heads=6, num_classes=10)  # 65 tokens of width 192


def run(repetitions: int) -> Iterator[Result]:
    """Measure one training step: forward, loss, backward and SGD."""
    yield measure(CONFIG, repetitions, "tensor_step_2_ranks", GOAL)


def measure(config: ViTConfig, repetitions: int, name: str, goal: float | None) -> Result:
    """Time both on the same weights and images, after showing that they compute the same; rank 0's clock counts.

    Raises:
        RankFailed: if loss or gradients differ.
    """
    runs, all_reduces = launch(time_both, RANKS, config, repetitions, show=False, timeout=600)[0]
    facts: dict[str, Any] = {"ranks": RANKS, "batch": BATCH, "all_reduces": all_reduces, "torch": torch.__version__}
    return compare(name, runs, goal, **facts)


def time_both(config: ViTConfig, repetitions: int) -> tuple[dict[str, list[Run]], dict[str, int]]:
    """What each rank does: the times, and how often each way all-reduces in a step."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, config.channels, *pair(config.image_size))
    labels = torch.randint(config.num_classes, (BATCH,))
    whole = ViT(config)
    models = {"ours": tensor_parallel(whole), "dtensor": by_dtensor(whole)}
    steps = {who: training_step(model, images, labels) for who, model in models.items()}
    calls, seen = {}, {}
    for who, step in steps.items():
        with Ledger() as ledger:
            loss = step()
        calls[who] = len(ledger.calls)
        seen[who] = (loss, gradient_of(models[who].get_parameter("positions")))
    for ours, theirs in zip(seen["ours"], seen["dtensor"], strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise AssertionError(f"the two compute different things: {ours.flatten()[:3]} and {theirs.flatten()[:3]}")

    def together(step: Callable[[], Tensor]) -> Callable[[], None]:
        def timed() -> None:
            step()
            dist.barrier()

        return timed

    return interleave({who: together(step) for who, step in steps.items()}, repetitions, warm_ups=2), calls


def by_dtensor(whole: ViT) -> nn.Module:
    """torch's own tensor parallelism, by the same plan, on a copy of the model."""
    model = ViT(whole.config)
    model.load_state_dict(whole.state_dict())
    styles = {"column": ColwiseParallel, "row": RowwiseParallel}
    plan: dict[str, Any] = {name: styles[how]() for name, how in PLANS[ViT]}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.encoder.layers:
        parallelize_module(layer, mesh, plan)
    return model


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """One step of plain SGD; returns the loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=False)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient of a whole parameter, which hangs on every layer behind it."""
    assert parameter.grad is not None
    return parameter.grad.clone()

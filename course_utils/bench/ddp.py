"""The course's DataParallel against torch's DistributedDataParallel: a training step of a ViT on 2 ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from course_utils.bench.runner import Result, Run, compare, interleave
from course_utils.data_parallel import DataParallel
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models.vit import ViT, ViTConfig
from course_utils.models.vit_config import pair

GOAL = 1.10
MIB = 2**20
BUCKET_MIB = 4  # torch counts its buckets in MiB
VIT = ViTConfig(image_size=32, patch_size=8, width=256, depth=6, heads=4, num_classes=10)  # 4.8 million parameters


def run(repetitions: int) -> Iterator[Result]:
    """One setting: few images a rank, so that communication is a large part of the step."""
    yield measure(VIT, 8, 3 * repetitions, "ddp_vit_2_ranks")


def measure(config: ViTConfig, images: int, repetitions: int, name: str) -> Result:
    """Time steps of equal replicas on 2 ranks, after showing that they stay equal; rank 0's clock counts.

    Raises:
        RankFailed: if the weights after the steps differ.
    """
    runs, details = launch(time_all, 2, config, images, repetitions, show=False, timeout=600)[0]
    return compare(name, runs, GOAL, **details)


def time_all(config: ViTConfig, images: int, repetitions: int) -> tuple[dict[str, list[Run]], dict[str, Any]]:
    """What each rank does: a step with each contestant in turn; a barrier keeps the ranks together."""
    wrap: dict[str, Callable[[nn.Module], nn.Module]] = {
        "ours": lambda m: DataParallel(m, bucket_mb=BUCKET_MIB * MIB / 10**6),
        "torch": DistributedDataParallel,  # as people call it
        "torch, same buckets": lambda m: DistributedDataParallel(m, bucket_cap_mb=BUCKET_MIB),
        "torch, views": lambda m: DistributedDataParallel(m, bucket_cap_mb=BUCKET_MIB, gradient_as_bucket_view=True),
    }
    steps: dict[str, Callable[[], None]] = {}
    models: dict[str, nn.Module] = {}
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(images, config.channels, *pair(config.image_size), generator=generator)  # [B, C, H, W]
    y = torch.randint(config.num_classes, (images,), generator=generator)
    for name, wrapper in wrap.items():
        torch.manual_seed(0)
        models[name] = wrapper(ViT(config))
        steps[name] = _step(models[name], x, y)
    with Ledger() as ledger:
        steps["ours"]()
    for name in list(steps)[1:]:
        steps[name]()
        _check_equal(models["ours"], models[name], name)
    runs = interleave(steps, repetitions, warm_ups=3)
    parameters = sum(p.numel() for p in models["ours"].parameters())
    details = {"parameters": parameters, "bytes_sent_per_rank": ledger.wire_bytes(), "torch": torch.__version__}
    return runs, details


def _step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        dist.barrier()

    return step


def _check_equal(ours: nn.Module, theirs: nn.Module, name: str) -> None:
    """Weights after the same step; with two addends a sum does not depend on their order."""
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        if not torch.allclose(a, b, rtol=0, atol=1e-7):
            difference = (a - b).abs().max().item()
            raise AssertionError(f"ours and {name} differ by {difference:.1e} after one step: this is no comparison")

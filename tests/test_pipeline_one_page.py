"""The page is 1F1B: equal to the runtime that executes the schedule, and to one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models import ViT, ViTConfig
from course_utils.pipeline import Pipeline, one_page, split_into_stages
from course_utils.pipeline.recipes import one_f_one_b

CONFIG = ViTConfig(image_size=8, patch_size=4, channels=1, width=8, depth=4, heads=2, num_classes=3)
BATCH, TOKENS = 12, 5
Step = tuple[list[float], dict[str, Tensor]]


def model() -> nn.Module:
    torch.manual_seed(0)
    return ViT(CONFIG).double()


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 1, 8, 8, generator=g).double(), torch.randint(3, (BATCH,), generator=g)


def both(m: int) -> tuple[Step, Step, int, int]:
    """The page's step and the runtime's, and how much each kept for backward at most."""
    x, y = batch()
    stage = split_into_stages(model(), dist.get_world_size())[dist.get_rank()]
    with Ledger(stage) as of_page:
        losses = one_page.one_f_one_b(stage, x.chunk(m), y.chunk(m), F.cross_entropy, (BATCH // m, TOKENS, 8))
    gradients = {name: p.grad for name, p in stage.part.named_parameters() if p.grad is not None}
    page = [loss.item() for loss in losses], gradients
    pipeline = Pipeline(model(), one_f_one_b(dist.get_world_size(), m), F.cross_entropy)
    with Ledger(pipeline.stages[dist.get_rank()]) as of_runtime:
        loss = pipeline.run(x, y)
    gradients = {name: p.grad for name, p in pipeline.named_parameters() if p.grad is not None}
    return page, ([] if loss is None else [loss.item()], gradients), of_page.saved_peak, of_runtime.saved_peak


@pytest.mark.parametrize(("ranks", "m"), [(1, 3), (2, 6), (4, 4), (4, 2), (4, 12)])
def test_equal_to_the_runtime_and_to_one_process(ranks: int, m: int) -> None:
    alone = model()
    x, y = batch()
    loss = F.cross_entropy(alone(x), y)
    loss.backward()
    results = launch(both, ranks, m)
    for (losses, gradients), (loss_of_runtime, same), kept, kept_by_runtime in results:
        assert len(losses) == (m if loss_of_runtime else 0)
        if losses:
            assert [sum(losses) / m] == pytest.approx(loss_of_runtime, rel=1e-13)
            assert loss_of_runtime == pytest.approx([loss.item()], rel=1e-13)
        assert gradients.keys() == same.keys()
        for name in gradients:
            torch.testing.assert_close(gradients[name], same[name], rtol=0, atol=0)
            torch.testing.assert_close(gradients[name], alone.get_parameter(name).grad, rtol=1e-11, atol=1e-15)
        assert kept == kept_by_runtime, "it holds min(m, p - r) micro-batches, as the schedule promises"
    together = {name for (_, gradients), *_ in results for name in gradients}
    assert together == {name for name, p in alone.named_parameters() if p.grad is not None}

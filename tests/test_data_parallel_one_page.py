"""Data parallelism's one page gives the room's sums and gradients, sends the same bytes, and while backward runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.data_parallel import DataParallel, one_page, ring_all_reduce
from course_utils.launch import launch
from course_utils.measure import Ledger

BUCKET = 600  # numbers: two or three parameters of the model


def ring(length: int) -> tuple[bool, bool]:
    """Whether the sums, and the bytes sent, are those of the package's ring."""
    x = torch.randn(length, generator=torch.Generator().manual_seed(dist.get_rank()))
    ours, expected = x.clone(), x.clone()
    with Ledger() as sent:
        one_page.ring_all_reduce(ours)
    with Ledger() as expected_sent:
        ring_all_reduce(expected)
    return torch.equal(ours, expected), sent.wire_bytes() == expected_sent.wire_bytes() > 0


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_ring_is_the_rooms(ranks: int) -> None:
    assert launch(lambda: [ring(length) for length in (12, 13, 1001)], ranks) == [[(True, True)] * 3] * ranks


def model() -> nn.Module:
    torch.manual_seed(dist.get_rank())  # rank 0's weights count
    return nn.Sequential(*(nn.Linear(20, 20) for _ in range(4)), nn.Linear(20, 5))


def train(wrapped: nn.Module) -> dict[str, Any]:
    """Three steps; gradients of the last, weights, and how many all-reduces had started when each gradient came."""
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    x, y = torch.randn(8, 20, generator=torch.Generator().manual_seed(7))[rank::ranks], torch.arange(8)[rank::ranks] % 5
    for _ in range(3):
        optimizer.zero_grad()
        started: list[int] = []
        with Ledger() as ledger:
            calls = ledger.calls
            hooks = [
                p.register_post_accumulate_grad_hook(lambda _, n=started, calls=calls: n.append(len(calls)))
                for p in wrapped.parameters()
            ]
            F.cross_entropy(wrapped(x), y).backward()
            if isinstance(wrapped, one_page.DataParallel):
                wrapped.wait()
        for hook in hooks:
            hook.remove()
        gradients = [p.grad.clone() for p in wrapped.parameters()]
        optimizer.step()
    sent = [(call.operation, call.payload) for call in ledger.calls]
    return {"gradients": gradients, "weights": list(wrapped.parameters()), "sent": sent, "started": started}


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def both() -> tuple[dict[str, Any], dict[str, Any]]:
    return train(one_page.DataParallel(model(), BUCKET)), train(DataParallel(model(), 4 * BUCKET / 1e6))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_page_is_the_room(ranks: int) -> None:
    results = launch(both, ranks)
    for page, room in results:
        # The room's buckets carry one number more, how many gradients a rank lacks. So the ring cuts its chunks
        # elsewhere and adds in another order: gradients of about 0.1 differ by a few times 2 ** -28.
        assert apart(page["gradients"], room["gradients"]) < 3e-8
        assert apart(page["weights"], room["weights"]) < 3e-8
        assert apart(page["weights"], results[0][0]["weights"]) == 0  # replicas stay equal
        assert [(name, size + 4) for name, size in page["sent"]] == room["sent"]
        assert page["started"] == room["started"]
        assert page["started"][-1] == len(page["sent"]) > 2
        assert page["started"][4] > 0, "nothing leaves before half of the gradients have come"

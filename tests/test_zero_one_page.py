"""ZeRO's one page takes zero()'s steps bit for bit, sends its bytes, and holds no more than it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models.encoder import EncoderConfig, EncoderLayer
from course_utils.zero import one_page, zero

ADAMW = functools.partial(torch.optim.AdamW, lr=0.01)


def layers() -> list[nn.Module]:
    """Sizes that 2 and 4 do not divide; a layer whose weights are used by attention, by norms and by an MLP."""
    torch.manual_seed(0)
    encoder = [EncoderLayer(EncoderConfig(width=12, depth=2, heads=2), 0.0) for _ in range(2)]
    return [nn.Embedding(11, 12), *encoder, nn.Linear(12, 11)]


def my_batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(11, (8, 5), generator=torch.Generator().manual_seed(1))
    mine = ids[dist.get_rank() :: dist.get_world_size()]
    return mine, (mine + 1) % 11


def loss_of(model: nn.Module) -> Tensor:
    x, y = my_batch()
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def whole(layer: one_page.Zero1) -> Tensor:
    parts = [torch.empty_like(layer.shard) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, layer.shard.detach())
    return torch.cat(parts)


def both(stage: int) -> dict[str, Any]:
    """Three steps by the page and by the room: weights, what was sent, and bytes held between backward and step."""
    page = [getattr(one_page, f"Zero{stage}")(layer) for layer in layers()]
    model, optimizer = nn.Sequential(*page), ADAMW([layer.shard for layer in page])
    losses, theirs = [], zero(nn.Sequential(*layers()), ADAMW, stage)
    for _ in range(3):
        optimizer.zero_grad()
        with Ledger() as ledger:
            loss = loss_of(model)
            weights = [layer.flat.untyped_storage().nbytes() for layer in page]  # between forward and backward
            loss.backward()
            weights += [layer.flat.untyped_storage().nbytes() for layer in page]
            whole_gradients = [layer.flat.grad is not None for layer in page]
            one_page.step(page, optimizer)
        with Ledger() as expected:
            loss_of(theirs).backward()
            held = theirs.held()
            theirs.step()
        losses.append(loss.item())
    expected_weights = torch.cat([p.flatten() for p in theirs.full_state_dict().values()])
    sizes = [sum(shape.numel() for shape in layer.shapes.values()) for layer in page]
    return {
        "equal": torch.equal(torch.cat([whole(p)[:n] for p, n in zip(page, sizes, strict=True)]), expected_weights),
        "sent": (sorted(ledger.sent()), sorted(expected.sent())),
        "moments": (moments(optimizer), held.optimizer_state),
        "weights": weights,
        "whole gradients": whole_gradients,
        "losses": losses,
    }


def moments(optimizer: torch.optim.Optimizer) -> int:
    return sum(t.nbytes for entry in optimizer.state.values() for t in entry.values() if t.dim())


def all_stages() -> dict[int, dict[str, Any]]:
    return {stage: both(stage) for stage in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_page_is_the_room(ranks: int) -> None:
    for result in launch(all_stages, ranks):
        for stage, found in result.items():
            assert found["equal"]
            assert found["losses"][2] < found["losses"][0]
            sent, expected_sent = found["sent"]
            assert sent == expected_sent
            held, expected_held = found["moments"]
            assert held == expected_held > 0
            assert [size > 0 for size in found["weights"]] == [
                stage < 3
            ] * 8  # before and after the backward of four layers
            assert found["whole gradients"] == [stage == 1] * 4

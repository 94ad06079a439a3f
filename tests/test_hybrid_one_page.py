"""The page is the step of three axes: equal to HybridParallel and to one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.hybrid import HybridParallel, Mesh, one_page
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models import ViT, ViTConfig
from course_utils.pipeline.recipes import gpipe

CONFIG = ViTConfig(image_size=8, patch_size=4, channels=1, width=16, depth=4, heads=4, num_classes=3)
BATCH, M = 16, 2
SIZES = {4: [(2, 2, 1), (2, 1, 2), (1, 2, 2)], 8: [(2, 2, 2), (1, 2, 4)]}


def model() -> ViT:
    torch.manual_seed(0)
    whole = ViT(CONFIG).double()
    for parameter in whole.parameters():  # a fresh bias is zero, and may be added twice unseen
        parameter.data += 0.05 * torch.randn_like(parameter)
    return whole


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 1, 8, 8, generator=g).double(), torch.randint(3, (BATCH,), generator=g)


def gradients(named: Any, first_layer: int = 0) -> dict[str, Tensor]:
    """By the names of the whole model; a stage of the page counts its layers from 0."""
    found = {}
    for name, p in named:
        words = name.split(".")
        if words[:2] == ["encoder", "layers"]:
            words[2] = str(int(words[2]) + first_layer)
        if p.grad is not None:
            found[".".join(words)] = p.grad
    return found


def both(d: int, p: int, t: int) -> dict[str, Any]:
    x, y = batch()
    part = one_page.ThreeAxes(model(), d, p, t)
    with Ledger() as ledger:
        loss = part.step(x, y, F.cross_entropy, M, (BATCH // d // M, 5, 16))
    mesh = Mesh(data=d, pipeline=p, tensor=t)
    hybrid = HybridParallel(model(), mesh, gpipe(p, M), F.cross_entropy)
    mean = hybrid.step(x, y)
    return {
        "places": part.places,
        "same places": part.places == list(mesh.coordinates.values()),
        "loss": loss.item(),
        "mean": mean,
        "gradients": gradients(part.model.named_parameters(), part.places[1] * 4 // p),
        "of hybrid": gradients(hybrid.pipeline.named_parameters()),
        "held": sum(parameter.numel() for parameter in part.model.encoder.parameters()),
        "sent": mesh.sent(ledger),
    }


def part_of(name: str, whole: Tensor, place: int, t: int) -> Tensor:
    """The slice of a whole gradient that a rank should have."""
    if any(word in name for word in ("q_proj", "k_proj", "v_proj", "fc1")):
        return whole.chunk(t, 0)[place]
    return whole.chunk(t, 1)[place] if name.endswith(("out_proj.weight", "fc2.weight")) else whole


@pytest.mark.parametrize("ranks", SIZES)
def test_equal_to_hybrid_parallel_and_to_one_process(ranks: int) -> None:
    alone: nn.Module = model()
    x, y = batch()
    loss = F.cross_entropy(alone(x), y)
    loss.backward()
    results = launch(lambda: [both(*sizes) for sizes in SIZES[ranks]], ranks)
    for number, (d, p, t) in enumerate(SIZES[ranks]):
        of_ranks = [rank[number] for rank in results]
        losses = [rank["loss"] for rank in of_ranks if rank["places"][1:] == [p - 1, 0]]
        assert sum(losses) / d == pytest.approx(loss.item(), rel=1e-13)
        for rank in of_ranks:
            assert rank["same places"]
            assert rank["mean"] == pytest.approx(loss.item(), rel=1e-13)
            for name, gradient in rank["gradients"].items():
                torch.testing.assert_close(gradient, rank["of hybrid"][name], rtol=1e-11, atol=1e-15)
                want = part_of(name, alone.get_parameter(name).grad, rank["places"][2], t)
                torch.testing.assert_close(gradient, want, rtol=1e-11, atol=1e-15)
            missing = set(rank["of hybrid"]) - set(rank["gradients"])  # biases behind sums, which one slice holds
            assert all(name.endswith(("out_proj.bias", "fc2.bias")) for name in missing)
            assert (rank["places"][2] == 0) == (not missing) or t == 1
            assert rank["held"] < 1.2 * sum(q.numel() for q in alone.encoder.parameters()) / (p * t)
            sizes = {"data": d, "pipeline": p, "tensor": t}
            assert all(rank["sent"][axis] > 0 for axis, size in sizes.items() if size > 1), "every axis is used"
        together = {name for rank in of_ranks for name in rank["gradients"]}
        assert together == {name for name, q in alone.named_parameters() if q.grad is not None}

"""Muon: equal to torch's where torch has it, AdamW elsewhere; singular values near one; convolutions as matrices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from course_utils.models import ViT, ViTConfig
from course_utils.training import Muon, muon_groups, parameter_groups
from course_utils.training.muon import orthogonalise


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12))


def trained(model: nn.Module, optimizers: list[Any], steps: int = 5) -> list[Tensor]:
    """The weights after a few steps that aim at fixed outputs: gradients of full rank."""
    x, y = torch.randn(64, 12, generator=(g := torch.Generator().manual_seed(1))), torch.randn(64, 12, generator=g)
    for _ in range(steps):
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("shape", [(16, 16), (10, 40), (40, 10), (3, 8, 24)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    turned = orthogonalise(matrix, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    made = u.mT @ turned @ vt.mT  # diagonal, if the singular vectors stayed
    values = made.diagonal(dim1=-2, dim2=-1)
    assert (made - torch.diag_embed(values)).abs().max() < 1e-9
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert s.max() / s.min() > 2, "before, they differed"


def test_a_matrix_of_any_scale_gives_the_same() -> None:
    matrix = torch.randn(6, 9)
    torch.testing.assert_close(orthogonalise(1e4 * matrix), orthogonalise(1e-2 * matrix), rtol=1e-4, atol=1e-5)
    assert orthogonalise(torch.zeros(3, 4)).equal(torch.zeros(3, 4))


def test_bfloat16_comes_near() -> None:
    matrix = torch.randn(32, 64)
    rough = orthogonalise(matrix, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - orthogonalise(matrix)).norm() < 0.05 * orthogonalise(matrix).norm()


def test_equal_to_torchs_muon_and_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices by torch.optim.Muon, biases by torch.optim.AdamW."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda tensor: tensor)  # what torch's Muon rounds its products to
    model = two_layers()
    theirs = copy.deepcopy(model)
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    biases = [p for p in theirs.parameters() if p.dim() == 1]
    groups = muon_groups(parameter_groups(model, 0.1), [model], 20)
    found = trained(model, [Muon(groups, 1e-3)])
    pair = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1), torch.optim.AdamW(biases, lr=1e-3, weight_decay=0)]
    for ours, wanted in zip(found, trained(theirs, pair), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_without_muon_equal_to_adamw() -> None:
    model = two_layers()
    theirs = copy.deepcopy(model)
    found = trained(model, [Muon(muon_groups(parameter_groups(model, 0.1), [], 20), 1e-2)])
    adamw = torch.optim.AdamW(parameter_groups(theirs, 0.1), lr=1e-2)
    for ours, wanted in zip(found, trained(theirs, [adamw]), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


def test_a_convolution_moves_as_its_matrix_does() -> None:
    """A convolution over a patch of its own size is a matrix product: both take the same steps."""
    conv = nn.Conv2d(3, 8, 2, stride=2, bias=False)
    linear = nn.Linear(12, 8, bias=False)
    linear.weight.data = conv.weight.detach().flatten(1).clone()
    x = torch.randn(5, 3, 2, 2)
    for layer, seen in ((conv, x), (linear, x.flatten(1))):
        optimizer = Muon(muon_groups(parameter_groups(layer, 0.05), [layer], 20), 1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            layer(seen).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight)


def test_the_encoder_is_turned_and_tables_and_head_are_not() -> None:
    model = ViT(ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, num_classes=5))
    groups = muon_groups(parameter_groups(model, 0.05), [model.encoder], 20)
    turned = {name for group in groups if group["muon"] for name, _ in group["params"]}
    wanted = {f"encoder.layers.{i}.{part}.weight" for i in range(2)
              for part in ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj",
                           "mlp.fc1", "mlp.fc2")}  # fmt: skip
    assert turned == wanted
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(group["weight_decay"] == 0.05 for group in groups if group["muon"])


def test_goes_on_from_its_state() -> None:
    model = two_layers()
    optimizer = Muon(muon_groups(parameter_groups(model, 0.1), [model[0]], 20), 1e-3)
    trained(model, [optimizer], 3)
    other = copy.deepcopy(model)
    again = Muon(muon_groups(parameter_groups(other, 0.1), [other[0]], 20), 5.0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, two in zip(trained(model, [optimizer], 2), trained(other, [again], 2), strict=True):
        assert torch.equal(one, two)


def test_a_frozen_or_unused_parameter_stays() -> None:
    model = two_layers()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    trained(model, [Muon(muon_groups(parameter_groups(model, 0.1), [model], 20), 1e-2)], 2)
    assert torch.equal(model[0].weight, before)

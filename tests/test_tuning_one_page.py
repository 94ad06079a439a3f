"""The one page of the room beside the hardened classes: values, gradients, a training run, merged weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import LABELS, check_learns, disturb, logits, ours

from course_utils.tuning import LoRA, Prefix, inject, merge, one_page, tuned_layers, unload

RANK, ALPHA, LENGTH = 3, 12.0, 4
LORA_NAMES = {"q_proj", "v_proj", "fc1"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def both(kind: str) -> tuple[nn.Module, nn.Module, list[tuple[Any, Any]]]:
    """A model tuned by the page, one tuned by the package, and the pairs of parameters that train, made equal."""
    page, package = ours(), ours()
    if kind == "lora":
        one_page.inject(page, LORA_NAMES, partial(one_page.LoRALinear, rank=RANK, alpha=ALPHA))
        inject(package, LoRA(rank=RANK, alpha=ALPHA), sorted(LORA_NAMES))
        assert torch.equal(logits(page), logits(ours()))  # B = 0 changes nothing
        sides = ("A", "B")
    else:
        one_page.inject(page, {"attention"}, partial(one_page.PrefixAttention, length=LENGTH))
        inject(package, Prefix(length=LENGTH), "attention")
        sides = ("keys", "values")
    pairs = []
    for path, layer in tuned_layers(package):
        mine, its = page.get_submodule(path), layer.adapters["default"]
        pairs += [(getattr(mine, side), getattr(its, side)) for side in sides]
    assert {id(p) for p in page.parameters() if p.requires_grad} == {id(mine) for mine, _ in pairs}
    assert {id(p) for p in package.parameters() if p.requires_grad} == {id(its) for _, its in pairs}
    with torch.no_grad():
        for mine, its in pairs:
            mine.copy_(its)
    return page, package, pairs


def step(model: nn.Module, rate: float = 0.0) -> None:
    model.zero_grad()
    F.cross_entropy(logits(model), LABELS).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter -= rate * parameter.grad


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_values_gradients_and_a_training_run_equal_the_package(kind: str) -> None:
    page, package, pairs = both(kind)
    with torch.no_grad():
        for mine, its in pairs:
            its.normal_(std=0.3)
            mine.copy_(its)
    page, package = page.double(), package.double()
    assert (logits(page) - logits(ours().double())).abs().max() > 0.1
    torch.testing.assert_close(logits(page), logits(package), rtol=1e-12, atol=1e-12)
    for _ in range(5):
        for model in (page, package):
            step(model, rate=0.05)
        for mine, its in pairs:
            assert its.grad.abs().max() > 1e-6
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-10)


def test_merged_weights_equal_the_package_and_the_tuned_model() -> None:
    page, package, pairs = both("lora")
    disturb(package)
    with torch.no_grad():
        for mine, its in pairs:
            mine.copy_(its)
    tuned = logits(page)
    one_page.merge(page)
    merge(package)
    unload(package)
    assert not any(isinstance(layer, one_page.LoRALinear) for layer in page.modules())
    torch.testing.assert_close(logits(page), tuned, rtol=1e-5, atol=1e-5)
    for (name, mine), its in zip(page.state_dict().items(), package.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_only_the_new_numbers_move(kind: str) -> None:
    page, _, pairs = both(kind)
    before = {name: parameter.clone() for name, parameter in page.named_parameters()}
    check_learns(page, 2e-2)
    moved = [id(p) for name, p in page.named_parameters() if not torch.equal(p, before[name])]
    assert sorted(moved) == sorted(id(mine) for mine, _ in pairs)

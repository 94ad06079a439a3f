"""The schedules against their formula; which parameters decay."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_utils.models import ViT, ViTConfig
from course_utils.training import adamw, constant, parameter_groups, schedule_lr, warmup_cosine, warmup_linear


def test_cosine_is_the_formula():
    top, bottom, w, total = 1.0, 0.02, 10, 110
    schedule = warmup_cosine(steps=total, warmup=w, floor=bottom)
    for t in range(total + 1):
        falling = bottom + 0.5 * (top - bottom) * (1 + math.cos(math.pi * (t - w) / (total - w)))
        assert schedule(t) == pytest.approx(top * t / w if t < w else falling, rel=1e-12)
    assert schedule(0) == 0
    assert schedule(w) == top  # the warm-up arrives exactly
    assert schedule(60) == pytest.approx((top + bottom) / 2)  # half way down
    assert schedule(total) == pytest.approx(bottom)
    assert schedule(10 * total) == pytest.approx(bottom)  # and does not rise again


def test_linear_and_constant():
    schedule = warmup_linear(steps=30, warmup=10, floor=0.2)
    assert [schedule(t) for t in (0, 5, 10, 20, 30, 99)] == pytest.approx([0, 0.5, 1.0, 0.6, 0.2, 0.2])
    assert [constant(warmup=4)(t) for t in (0, 1, 2, 4, 1000)] == [0, 0.25, 0.5, 1, 1]


@given(
    st.sampled_from([warmup_cosine, warmup_linear]),
    st.floats(0, 1),
    st.integers(0, 50),
    st.integers(1, 200),
)
def test_schedules_stay_in_bounds_rise_then_fall(make, low, warmup, rest):
    total = warmup + rest
    schedule = make(steps=total, warmup=warmup, floor=low)
    rates = [schedule(t) for t in range(total + 20)]
    tiny = 1e-9
    assert all(0 <= r <= 1 + tiny for r in rates)
    assert all(r >= low - tiny for r in rates[warmup:])
    assert all(a <= b + tiny for a, b in itertools.pairwise(rates[: warmup + 1]))
    assert all(a >= b - tiny for a, b in itertools.pairwise(rates[warmup:]))


def test_schedule_lr_multiplies_each_groups_own_rate():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 2e-3}, {"params": model[1].parameters()}], 1.0
    )
    schedule = warmup_cosine(steps=8, warmup=2)
    scheduler = schedule_lr(optimizer, schedule)
    for step in range(10):
        assert [g["lr"] for g in optimizer.param_groups] == [2e-3 * schedule(step), schedule(step)]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: adamw(nn.Linear(2, 2), 0.0), "lr is 0.0, expected a positive number"),
        (lambda: warmup_cosine(steps=10, warmup=10), "warm-up of 10 steps leaves nothing of 10 steps"),
        (lambda: warmup_cosine(steps=10, floor=1.5), "floor is 1.5, expected .* between 0 and 1"),
        (lambda: constant(warmup=-1), "warmup is -1 steps"),
        (lambda: parameter_groups(nn.Linear(2, 2), -0.1), "weight_decay is -0.1"),
        (lambda: parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1), "unfreeze"),
    ],
)
def test_errors_say_what_to_do(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 4))
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight  # tied: looked up on one side
        self.conv = nn.Conv2d(1, 4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_decay():
    model = Toy()
    groups = parameter_groups(model, 0.1)
    names = [{name for name, _ in g["params"]} for g in groups]
    assert names[0] == {"conv.weight"}
    assert names[1] == {
        "cls_token", "pos_embed", "embedding.weight", "norm.weight", "norm.bias", "head.bias", "conv.bias",
    }  # fmt: skip
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


def test_a_vision_transformers_positions_and_tokens_do_not_decay():
    model = ViT(ViTConfig(width=8, depth=1, heads=2, image_size=8, patch_size=4, num_classes=2))
    _, free = parameter_groups(model, 0.1)
    assert {"positions", "class_token"} <= {name for name, _ in free["params"]}


def test_decay_reaches_the_weights_and_nothing_else():
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, 0.01, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.01 * 0.5 if name == "conv.weight" else 1.0
        assert torch.allclose(p, before[name] * factor, rtol=1e-6, atol=0), name

"""Bottleneck adapters in the papers' places and by their formula, IA3 equal to peft."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import CLASSES, DEPTH, HIDDEN, LABELS, MAKERS, WIDTH, check_leaves_the_base, logits

from course_utils.tuning import (
    HOULSBY_PLACES,
    IA3,
    PFEIFFER_PLACES,
    Bottleneck,
    count_parameters,
    inject,
    merge,
    tuned_layers,
    unmerge,
)

HEAD = {"ours": "head", "transformers": "classifier"}
IA3_TARGETS = {"ours": ["k_proj", "v_proj", "fc2"], "transformers": ["key", "value", r"layer.?.output.dense"]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("library", MAKERS)
def test_places_of_houlsby_and_pfeiffer(library: str) -> None:
    names = {
        "ours": ["encoder.layers.{}.attention.out_proj", "encoder.layers.{}.mlp.fc2"],
        "transformers": ["bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"],
    }[library]
    make = MAKERS[library]
    assert inject(make(), Bottleneck(), HOULSBY_PLACES) == [n.format(i) for i in range(DEPTH) for n in names]
    assert inject(make(), Bottleneck(), PFEIFFER_PLACES) == [names[1].format(i) for i in range(DEPTH)]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_bottleneck_is_what_the_paper_draws(activation: Any) -> None:
    model, x = nn.Sequential(nn.Linear(6, 10)), torch.randn(3, 6)
    h = model(x)
    inject(model, Bottleneck(width=4, activation=activation), "0")
    assert torch.equal(model(x), h)  # the identity at the start, to the bit
    part: Any = model[0].adapters["default"]
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_()
    low = getattr(F, activation)(h @ part.down.weight.T + part.down.bias)
    torch.testing.assert_close(model(x), h + low @ part.up.weight.T + part.up.bias)
    with pytest.raises(ValueError, match=r"BottleneckAdapter .* Linear"):
        merge(model)


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("method", [Bottleneck(width=4), IA3()])
def test_training_leaves_the_base_bit_for_bit(library: str, method: Any) -> None:
    targets = HOULSBY_PLACES if isinstance(method, Bottleneck) else IA3_TARGETS[library]
    check_leaves_the_base(MAKERS[library], logits, method, targets, HEAD[library])


@pytest.mark.parametrize("library", MAKERS)
def test_ia3_equals_peft(library: str) -> None:
    model = MAKERS[library]()
    feedforward = r".*(fc2|layer\.\d+\.output\.dense)"
    targets = r".*(k_proj|v_proj|fc2|key|value|layer\.\d+\.output\.dense)"
    config = peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=[HEAD[library]])
    theirs: Any = peft.get_peft_model(copy.deepcopy(model), config).eval()
    inject(model, IA3(), IA3_TARGETS[library], train=HEAD[library])
    expected = DEPTH * (2 * WIDTH + HIDDEN) + (WIDTH + 1) * CLASSES
    assert count_parameters(model).trainable == theirs.get_nb_trainable_parameters()[0] == expected
    factors = {path: layer.adapters["default"] for path, layer in tuned_layers(model) if path != HEAD[library]}
    with torch.no_grad():
        for path, mine in factors.items():
            mine.factors.normal_(mean=1, std=0.5)
            other = theirs.get_submodule(f"base_model.model.{path}").ia3_l["default"]
            other.copy_(mine.factors.view_as(other))
    assert not torch.allclose(logits(model), logits(MAKERS[library]()), atol=1e-2)
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):
        F.cross_entropy(logits(each), LABELS).backward()
    for path, mine in factors.items():
        other = theirs.get_submodule(f"base_model.model.{path}").ia3_l["default"]
        torch.testing.assert_close(mine.factors.grad, other.grad.flatten(), rtol=1e-9, atol=1e-9)


def test_ia3_merges_and_is_taken_out_again_exactly() -> None:
    model = MAKERS["ours"]()
    inject(model, IA3(), IA3_TARGETS["ours"])
    with torch.no_grad():
        for _, layer in tuned_layers(model):
            layer.adapters["default"].factors.normal_()
            layer.adapters["default"].factors[0] = 0  # dividing could not bring this one back
    tuned, before = logits(model), copy.deepcopy(model.state_dict())
    merge(model)
    torch.testing.assert_close(logits(model), tuned, rtol=1e-5, atol=1e-5)
    unmerge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("activation", "tanh")])
def test_wrong_numbers_are_told(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} {value!r}"):
        Bottleneck(**{field: value})

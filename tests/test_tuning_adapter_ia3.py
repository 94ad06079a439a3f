"""Bottleneck adapters by the papers' counts and places, IA3 equal to peft."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from course_utils.models.text import TextConfig, TextModel
from course_utils.tuning import (
    HOULSBY_PLACES,
    IA3,
    PFEIFFER_PLACES,
    Bottleneck,
    count,
    inject,
    merge,
    switch,
    tuned_layers,
    unload,
    unmerge,
)

IDS = torch.randint(1, 60, (4, 9), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 4, 1])
IA3_TARGETS = {"ours": ["k_proj", "v_proj", "fc2"], "transformers": ["key", "value", r"layer.?.output.dense"]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(library: str) -> nn.Module:
    if library == "ours":
        config = TextConfig(vocab_size=60, width=32, depth=2, heads=4, mlp_ratio=1.5, max_length=16, num_classes=5)
        model: nn.Module = TextModel(config)
    else:
        theirs = transformers.BertConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=16, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(theirs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    out = model(IDS)
    return getattr(out, "logits", out)


def head(library: str) -> str:
    return "head" if library == "ours" else "classifier"


@pytest.mark.parametrize("library", ["ours", "transformers"])
def test_places_of_houlsby_and_pfeiffer(library: str) -> None:
    names = {
        "ours": ["encoder.layers.{}.attention.out_proj", "encoder.layers.{}.mlp.fc2"],
        "transformers": ["bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"],
    }[library]
    assert inject(make(library), Bottleneck(), HOULSBY_PLACES) == [n.format(i) for i in range(2) for n in names]
    assert inject(make(library), Bottleneck(), PFEIFFER_PLACES) == [names[1].format(i) for i in range(2)]


def test_counts_of_bert_base() -> None:
    for places, train, expected in [
        (HOULSBY_PLACES, [], 2_379_264),
        (PFEIFFER_PLACES, [], 1_189_632),
        (HOULSBY_PLACES, ["norm1", "norm2"], 2_379_264 + 36_864),
    ]:
        with torch.device("meta"):
            model = TextModel(TextConfig())
            inject(model, Bottleneck(width=64), places, train=train)
        assert count(model) == (expected, 102_267_648 + 2_379_264 // (2 if places is PFEIFFER_PLACES else 1))
    for width, expected in [(8, 13_064), (64, 99_136)]:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(3072, 768))
            inject(model, Bottleneck(width=width), "0")
        assert count(model).trainable == expected == 2 * 768 * width + width + 768


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
    with pytest.raises(ValueError, match="BottleneckAdapter cannot be merged into the weights of a Linear"):
        merge(model)


@pytest.mark.parametrize("library", ["ours", "transformers"])
@pytest.mark.parametrize("method", [Bottleneck(width=4), IA3()])
def test_training_leaves_the_base_bit_for_bit(library: str, method: Any) -> None:
    model = make(library)
    bare, before = copy.deepcopy(model), logits(model)
    targets = HOULSBY_PLACES if isinstance(method, Bottleneck) else IA3_TARGETS[library]
    inject(model, method, targets, train=head(library))
    assert torch.equal(logits(model), before)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(logits(model), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    model.eval()
    assert not torch.equal(logits(model), before)
    switch(model, None)
    assert torch.equal(logits(model), before)
    unload(model)
    assert all(torch.equal(t, bare.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("library", ["ours", "transformers"])
def test_ia3_equals_peft(library: str) -> None:
    model = make(library)
    feedforward = r".*(fc2|layer\.\d+\.output\.dense)"
    targets = r".*(k_proj|v_proj|fc2|key|value|layer\.\d+\.output\.dense)"
    config = peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=[head(library)])
    theirs: Any = peft.get_peft_model(copy.deepcopy(model), config).eval()
    inject(model, IA3(), IA3_TARGETS[library], train=head(library))
    assert count(model).trainable == theirs.get_nb_trainable_parameters()[0] == 2 * (2 * 32 + 48) + 33 * 5
    factors = {path: layer.adapters["default"] for path, layer in tuned_layers(model) if path != head(library)}
    with torch.no_grad():
        for path, mine in factors.items():
            mine.factors.normal_(mean=1, std=0.5)
            other = theirs.get_submodule(f"base_model.model.{path}").ia3_l["default"]
            other.copy_(mine.factors.view_as(other))
    assert not torch.allclose(logits(model), logits(make(library)), atol=1e-2)
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-5, atol=1e-5)
    for each in (model.double(), theirs.double()):
        F.cross_entropy(logits(each), LABELS).backward()
    for path, mine in factors.items():
        other = theirs.get_submodule(f"base_model.model.{path}").ia3_l["default"]
        torch.testing.assert_close(mine.factors.grad, other.grad.flatten(), rtol=1e-9, atol=1e-9)


def test_ia3_count_of_bert_base_and_merge() -> None:
    with torch.device("meta"):
        model: nn.Module = TextModel(TextConfig())
        inject(model, IA3(), IA3_TARGETS["ours"])
    assert count(model).trainable == 12 * (2 * 768 + 3072) == 55_296
    model = make("ours")
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"width": 0}, "width 0 is no count"), ({"activation": "tanh"}, "activation 'tanh' is unknown")],
)
def test_wrong_numbers_are_told(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bottleneck(**fields)

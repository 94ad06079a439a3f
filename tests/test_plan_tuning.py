"""The costs of soft prompts: formulas against what trains, and against torch's counter of a real step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_utils.models.text import TextConfig, TextModel
from course_utils.plan.tuning import Tuning, p_tuning_parameters, prefix_parameters, prompt_parameters, step_macs
from course_utils.tuning import Method, Prefix, PTuning, SoftPrompt, count, inject

SMALL = TextConfig(vocab_size=40, width=24, depth=3, heads=4, mlp_ratio=1.5, max_length=30, num_classes=5)
PLACES: dict[type[Method], str] = {Prefix: "attention", SoftPrompt: "word_embedding", PTuning: "word_embedding"}


@pytest.mark.parametrize("config", [SMALL, TextConfig(num_classes=18)])
@pytest.mark.parametrize("length", [1, 10])
def test_parameters_are_those_that_train(config: TextConfig, length: int) -> None:
    d, depth = config.width, config.depth
    cases: list[tuple[Method, int]] = [
        (SoftPrompt(length=length), prompt_parameters(length, d)),
        (Prefix(length=length), prefix_parameters(length, d, depth)),
        (Prefix(length=length, hidden=7), prefix_parameters(length, d, depth, 7)),
        (PTuning(length=length), p_tuning_parameters(length, d)),
        (PTuning(length=length, hidden=7), p_tuning_parameters(length, d, 7)),
        (PTuning(length=length, network="lstm"), p_tuning_parameters(length, d, network="lstm")),
        (PTuning(length=length, network="lstm", hidden=5, lstm_layers=3), p_tuning_parameters(length, d, 5, "lstm", 3)),
    ]
    for method, expected in cases:
        with torch.device("meta"):
            model = TextModel(config)
            inject(model, method, PLACES[type(method)])
        assert count(model).trainable == expected, method


@pytest.mark.parametrize("method", ["full", "head", "prompt", "prefix"])
@pytest.mark.parametrize(("tokens", "length"), [(1, 1), (9, 4), (20, 10)])
def test_macs_are_those_of_a_real_step(method: Tuning, tokens: int, length: int) -> None:
    model, texts = TextModel(SMALL), 3
    how = {"full": None, "head": None, "prompt": SoftPrompt(length=length), "prefix": Prefix(length=length)}[method]
    if method != "full":
        inject(model, how, PLACES[type(how)] if how else (), train="head")
    ids, labels = torch.randint(1, 40, (texts, tokens)), torch.zeros(texts, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH):  # as matrix products, which the counter sees one by one
        with FlopCounterMode(display=False) as forward:
            loss = F.cross_entropy(model(ids), labels)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    counted = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    assert counted == {name: 2 * texts * macs for name, macs in step_macs(SMALL, tokens, method, length).items()}


def test_a_prompt_for_bert_costs_more_than_training_everything() -> None:
    config = TextConfig(num_classes=18)
    steps = {m: sum(step_macs(config, 20, m, 10).values()) for m in ("full", "head", "prompt", "prefix")}
    assert steps["prompt"] > steps["full"] > 1.5 * steps["prefix"] > steps["head"]
    assert steps["prompt"] / steps["full"] == pytest.approx(1.005, abs=2e-3)

"""The costs of tuning few parameters: formulas against what trains, and against torch's counter of a real step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_utils.models import TextConfig, TextModel
from course_utils.tuning import (
    HOULSBY_PLACES,
    IA3,
    PFEIFFER_PLACES,
    Bottleneck,
    LoRA,
    Method,
    Prefix,
    PTuning,
    SoftPrompt,
    count_parameters,
    inject,
)
from course_utils.tuning.cost import (
    MATRICES,
    bottleneck_parameters,
    ia3_parameters,
    lora_model_parameters,
    lora_parameters,
    matrix_shapes,
    p_tuning_parameters,
    prefix_parameters,
    prompt_parameters,
    step_macs,
)
from course_utils.tuning.names import Pattern

SMALL = TextConfig(vocab_size=40, width=24, depth=3, heads=4, mlp_ratio=1.5, max_length=30, num_classes=5)
LAYERS = dict(zip(MATRICES, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], strict=True))
WORDS = "word_embedding"


@pytest.mark.parametrize("config", [SMALL, TextConfig(num_classes=18)])
@pytest.mark.parametrize("n", [1, 8])
def test_parameters_are_those_that_train(config: TextConfig, n: int) -> None:
    d, depth = config.width, config.depth
    dora = depth * sum(lora_parameters(n, *shape, dora=True) for shape in matrix_shapes(config).values())
    three = PTuning(length=n, network="lstm", hidden=5, lstm_layers=3)
    cases: list[tuple[Method, Pattern | list[str], int]] = [
        (SoftPrompt(length=n), WORDS, prompt_parameters(n, d)),
        (Prefix(length=n), "attention", prefix_parameters(n, d, depth)),
        (Prefix(length=n, hidden=7), "attention", prefix_parameters(n, d, depth, 7)),
        (PTuning(length=n), WORDS, p_tuning_parameters(n, d)),
        (PTuning(length=n, hidden=7), WORDS, p_tuning_parameters(n, d, 7)),
        (PTuning(length=n, network="lstm"), WORDS, p_tuning_parameters(n, d, network="lstm")),
        (three, WORDS, p_tuning_parameters(n, d, 5, "lstm", 3)),
        (LoRA(rank=n), ["q_proj", "v_proj"], lora_model_parameters(config, n, ["q", "v"])),
        (LoRA(rank=n), "encoder.layers.*", lora_model_parameters(config, n, MATRICES)),
        (LoRA(rank=n, dora=True), "encoder.layers.*", dora),
        (Bottleneck(width=n), HOULSBY_PLACES, 2 * depth * bottleneck_parameters(d, n)),
        (Bottleneck(width=n), PFEIFFER_PLACES, depth * bottleneck_parameters(d, n)),
        (IA3(), ["k_proj", "v_proj", "fc2"], depth * ia3_parameters(d, config.mlp_width)),
    ]
    for method, targets, expected in cases:
        with torch.device("meta"):
            model = TextModel(config)
            inject(model, method, targets)
        assert count_parameters(model).trainable == expected, method


def test_the_numbers_of_bert_base() -> None:
    base = TextConfig()
    d, f, depth = base.width, base.mlp_width, base.depth
    assert prompt_parameters(10, d) == 7_680
    assert (prefix_parameters(10, d, depth), prefix_parameters(10, d, depth, d)) == (184_320, 14_772_480)
    assert (p_tuning_parameters(10, d), p_tuning_parameters(10, d, network="lstm")) == (1_779_456, 27_166_464)
    assert (bottleneck_parameters(d, 8), bottleneck_parameters(d, 64)) == (13_064, 99_136)
    assert [lora_model_parameters(base, 8, names) for names in ("qv", "qkv", MATRICES)] == [294_912, 442_368, 1_327_104]
    assert depth * ia3_parameters(d, f) == 55_296


@pytest.mark.parametrize(
    "chosen",
    [
        {},  # the head alone
        {"full": True},
        {"prompt": 4},
        {"prefix": 4},
        {"lora": {"q": 4, "k": 4, "v": 4}},
        {"lora": {"v": 3}},  # queries and keys of the first layer then stay as they are
        {"lora": {"k": 3}},
        {"lora": {"fc2": 5}},
        {"lora": dict.fromkeys(MATRICES, 2)},
        {"bottlenecks": {"out": 6, "fc2": 6}},
        {"bottlenecks": {"fc2": 6}},
    ],
)
@pytest.mark.parametrize(("pool", "tokens"), [("cls", 9), ("mean", 1), ("cls", 20)])
def test_macs_are_those_of_a_real_step(chosen: dict[str, Any], pool: Literal["cls", "mean"], tokens: int) -> None:
    config = replace(SMALL, pool=pool, pooler=pool == "cls")
    model, texts = TextModel(config), 3
    tune(model, **chosen)
    ids, labels = torch.randint(1, 40, (texts, tokens)), torch.zeros(texts, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH):  # as matrix products, which the counter sees one by one
        with FlopCounterMode(display=False) as forward:
            loss = F.cross_entropy(model(ids), labels)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    counted = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    assert counted == {name: 2 * texts * macs for name, macs in step_macs(config, tokens, **chosen).items()}


def tune(model: TextModel, full: bool = False, prompt: int = 0, prefix: int = 0, **small: dict[str, int]) -> None:
    """Put in what the arguments of `step_macs` describe."""
    sizes = {LAYERS[name]: size for places in small.values() for name, size in places.items()}
    size = next(iter(sizes.values()), 1)
    if prompt:
        inject(model, SoftPrompt(length=prompt), WORDS, train="head")
    elif prefix:
        inject(model, Prefix(length=prefix), "attention", train="head")
    elif sizes:
        inject(model, LoRA(rank=size) if "lora" in small else Bottleneck(width=size), list(sizes), train="head")
    elif not full:
        inject(model, None, train="head")


def test_a_prompt_for_bert_costs_more_than_training_everything() -> None:
    config = TextConfig(num_classes=18)
    ways: list[dict[str, Any]] = [{"full": True}, {}, {"prompt": 10}, {"prefix": 10}]
    full, head, prompt, prefix = (sum(step_macs(config, 20, **way).values()) for way in ways)
    assert prompt > full > 1.5 * prefix > head
    assert prompt / full == pytest.approx(1.005, abs=2e-3)


def test_a_name_of_no_matrix_is_told() -> None:
    for call in (lambda: step_macs(SMALL, 5, lora={"query": 1}), lambda: lora_model_parameters(SMALL, 1, ["query"])):
        with pytest.raises(ValueError, match=r"query.*q, k, v, out, fc1, fc2"):
            call()

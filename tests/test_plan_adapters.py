"""The costs of adapters and LoRA: formulas against what trains, and against torch's counter of a real step."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_utils.models import TextConfig, TextModel
from course_utils.plan.adapters import (
    MATRICES,
    bottleneck_parameters,
    ia3_parameters,
    lora_model_parameters,
    lora_parameters,
    matrix_shapes,
    tuned_step_macs,
)
from course_utils.tuning import HOULSBY_PLACES, IA3, PFEIFFER_PLACES, Bottleneck, LoRA, Method, count, inject
from course_utils.tuning.names import Pattern

SMALL = TextConfig(vocab_size=40, width=24, depth=3, heads=4, mlp_ratio=1.5, max_length=30, num_classes=5)
LAYERS = dict(zip(MATRICES, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], strict=True))


@pytest.mark.parametrize("config", [SMALL, TextConfig(num_classes=18)])
@pytest.mark.parametrize("rank", [1, 8])
def test_parameters_are_those_that_train(config: TextConfig, rank: int) -> None:
    d, depth = config.width, config.depth
    dora = depth * sum(lora_parameters(rank, *shape, dora=True) for shape in matrix_shapes(config).values())
    cases: list[tuple[Method, Pattern | list[str], int]] = [
        (LoRA(rank=rank), ["q_proj", "v_proj"], lora_model_parameters(config, rank, ["q", "v"])),
        (LoRA(rank=rank), "encoder.layers.*", lora_model_parameters(config, rank, MATRICES)),
        (LoRA(rank=rank, dora=True), "encoder.layers.*", dora),
        (Bottleneck(width=rank), HOULSBY_PLACES, 2 * depth * bottleneck_parameters(d, rank)),
        (Bottleneck(width=rank), PFEIFFER_PLACES, depth * bottleneck_parameters(d, rank)),
        (IA3(), ["k_proj", "v_proj", "fc2"], depth * ia3_parameters(d, config.mlp_width)),
    ]
    for method, targets, expected in cases:
        with torch.device("meta"):
            model = TextModel(config)
            inject(model, method, targets)
        assert count(model).trainable == expected, method


@pytest.mark.parametrize(
    ("lora", "bottlenecks"),
    [
        ({"q": 4, "k": 4, "v": 4}, {}),
        ({"v": 3}, {}),  # queries and keys of the first layer then stay as they are
        ({"k": 3}, {}),
        ({"fc2": 5}, {}),
        (dict.fromkeys(MATRICES, 2), {}),
        ({}, {"out": 6, "fc2": 6}),
        ({}, {"fc2": 6}),
        ({}, {}),  # the head alone
    ],
)
@pytest.mark.parametrize(("pool", "tokens"), [("cls", 9), ("mean", 1)])
def test_macs_are_those_of_a_real_step(
    lora: dict, bottlenecks: dict, pool: Literal["cls", "mean"], tokens: int
) -> None:
    config = replace(SMALL, pool=pool, pooler=pool == "cls")
    model, texts = TextModel(config), 3
    chosen = {**lora, **bottlenecks}
    if chosen:
        size = next(iter(chosen.values()))
        method = LoRA(rank=size) if lora else Bottleneck(width=size)
        inject(model, method, [LAYERS[name] for name in chosen], train="head")
    else:
        inject(model, None, train="head")
    ids, labels = torch.randint(1, 40, (texts, tokens)), torch.zeros(texts, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH):  # as matrix products, which the counter sees one by one
        with FlopCounterMode(display=False) as forward:
            loss = F.cross_entropy(model(ids), labels)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    counted = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    predicted = tuned_step_macs(config, tokens, lora=lora, bottlenecks=bottlenecks)
    assert counted == {name: 2 * texts * macs for name, macs in predicted.items()}


def test_a_name_of_no_matrix_is_told() -> None:
    for call in (lambda: tuned_step_macs(SMALL, 5, lora={"query": 1}), lambda: lora_model_parameters(SMALL, 1, ["x"])):
        with pytest.raises(ValueError, match=r"an encoder layer has no matrix '.*': choose among q, k, v, out, fc1"):
            call()

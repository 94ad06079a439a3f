"""The answers of the figure ``prompt_costs``: what each way to tune a BERT by a soft prompt costs."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from course_utils.figures.interactive import tabulate
from course_utils.models.text import TextConfig, TextModel
from course_utils.tuning.cost import p_tuning_parameters, prefix_parameters, prompt_parameters, step_macs

MODELS = {
    "BERT base": TextConfig(num_classes=18),
    "BERT large": TextConfig(width=1024, depth=24, heads=16, num_classes=18),
}
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)
TOKENS = (5, 10, 20, 50, 100, 200, 350, 512)


def answers() -> dict[str, Any]:
    """``costs``: of each way, [numbers that train, numbers that the file keeps, arithmetic of a step], the last in
    units of full fine-tuning's. The head trains with each and is kept."""
    return {
        "costs": tabulate(_costs, model=MODELS, length=LENGTHS, tokens=TOKENS),
    }


@cache
def parameters(config: TextConfig) -> int:
    """The parameters of the whole model, its head among them."""
    with torch.device("meta"):
        return sum(p.numel() for p in TextModel(config).parameters())


def _costs(model: str, length: int, tokens: int) -> dict[str, Any]:
    config = MODELS[model]
    d, depth, head = config.width, config.depth, (config.width + 1) * config.num_classes
    everything, prompt = parameters(config) - head, prompt_parameters(length, d)
    prefix = prefix_parameters(length, d, depth)

    def step(**trained: Any) -> int:
        return sum(step_macs(config, tokens, **trained).values())

    full, by_prompt, by_prefix = step(full=True), step(prompt=length), step(prefix=length)
    ways = {  # numbers trained, numbers kept in the file, arithmetic
        "full fine-tuning": (everything, everything, full),
        "head alone": (0, 0, step()),
        "prompt tuning": (prompt, prompt, by_prompt),
        "P-tuning, MLP": (p_tuning_parameters(length, d), prompt, by_prompt),
        "P-tuning, LSTM": (p_tuning_parameters(length, d, network="lstm"), prompt, by_prompt),
        "prefix, P-tuning v2": (prefix, prefix, by_prefix),
        "prefix with MLP": (prefix_parameters(length, d, depth, d), prefix, by_prefix),
    }
    return {name: [trained + head, kept + head, macs / full] for name, (trained, kept, macs) in ways.items()}

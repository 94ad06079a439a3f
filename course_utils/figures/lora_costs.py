"""The answers of the figure ``lora_costs``: what LoRA costs beside full fine-tuning, for chosen matrices of a BERT."""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.figures.prompt_costs import MODELS, parameters
from course_utils.tuning.cost import MATRICES, lora_model_parameters, step_macs

RANKS = (1, 4, 8, 16, 64)
TOKENS = (20, 128, 512)


def answers() -> dict[str, Any]:
    """``matrices``, which the figure ticks; ``numbers`` that train and ``macs`` of a step, the latter in units of full
    fine-tuning's and rounded as they are shown; ``full``, the parameters of each model.

    A choice of matrices is a number: its bit k is set when the k-th matrix is ticked.
    """
    choices = range(2 ** len(MATRICES))
    return {
        "matrices": MATRICES,
        "full": {name: parameters(config) for name, config in MODELS.items()},
        "numbers": tabulate(_numbers, model=MODELS, rank=RANKS, matrices=choices),
        "macs": tabulate(_macs, model=MODELS, rank=RANKS, tokens=TOKENS, matrices=choices),
    }


def _ticked(matrices: int) -> list[str]:
    return [name for k, name in enumerate(MATRICES) if matrices >> k & 1]


def _numbers(model: str, rank: int, matrices: int) -> dict[str, int]:
    config = MODELS[model]
    added = lora_model_parameters(config, rank, _ticked(matrices))
    return {"added": added, "trained": added + (config.width + 1) * config.num_classes}


def _macs(model: str, rank: int, tokens: int, matrices: int) -> dict[str, float]:
    config = MODELS[model]
    full = sum(step_macs(config, tokens, full=True).values())
    step = step_macs(config, tokens, lora=dict.fromkeys(_ticked(matrices), rank))
    parts = {name: round(macs / full, 3) for name, macs in step.items()}
    return parts | {"step": round(sum(step.values()) / full, 2)}

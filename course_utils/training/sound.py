"""Whether numbers are still numbers: inf and nan are found before they are saved, chosen by, or written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from course_utils.training.loop import Metrics


def check_loss(found: Metrics, what: str) -> None:
    """Raise ``FloatingPointError`` for an evaluation whose loss is inf or nan; ``what`` was evaluated, and when."""
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"the {what} loss is {found.loss}: lower the learning rate, or look for inf and nan in the data"
        )


def check_weights(trained: nn.Module, step: int) -> None:
    """Raise ``FloatingPointError`` for weights that hold inf or nan, before they replace a good checkpoint: the loss of
    the step that spoils them is still a number."""
    for name, tensor in trained.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FloatingPointError(
                f"{name} holds inf or nan after step {step}: lower the learning rate, add warm-up or clip the gradient"
            )


def strict(value: Any) -> Any:
    """What JSON can hold: inf and nan, such as the loss of a step that was skipped, become null."""
    if isinstance(value, Mapping):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

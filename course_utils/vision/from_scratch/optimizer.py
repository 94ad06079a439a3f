"""The optimizer of a recipe, and its rates."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR

from course_utils.models import ViT
from course_utils.training import (
    Muon,
    Precision,
    adamw,
    constant,
    muon_groups,
    parameter_groups,
    schedule_lr,
    warmup_cosine,
)
from course_utils.vision.from_scratch.config import FromScratch


def make_optimizer(
    config: FromScratch, model: ViT, steps: int, precision: Precision = "fp32"
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the rate of each of ``steps`` steps."""
    optimizer: torch.optim.Optimizer
    if config.optimizer == "muon":
        hidden = [model.encoder, model.patch_embedding] if config.stem else [model.encoder]
        groups = muon_groups(parameter_groups(model, config.weight_decay), hidden, config.muon_factor)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizer = Muon(groups, config.rate, dtype=dtype)
    elif config.optimizer == "adamw":
        optimizer = adamw(model, config.rate, weight_decay=config.weight_decay)
    else:  # decays biases and norms as well, through the gradient: for comparison
        optimizer = torch.optim.Adam(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    if config.schedule == "cosine":
        # At least one step: the first one, at a rate of zero, only fills the optimizer's averages.
        warmup = min(max(1, round(config.warmup * steps)), steps - 1) if config.warmup else 0
        schedule = warmup_cosine(steps=steps, warmup=warmup, floor=config.lr_min / config.rate)
    else:
        schedule = constant(warmup=round(config.warmup * steps))
    return optimizer, schedule_lr(optimizer, schedule)

"""The optimizer of a run, and its rates."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR

from course_utils.language.config import Config
from course_utils.models.decoder import Decoder
from course_utils.training import Muon, adamw, muon_groups, parameter_groups, schedule_lr, warmup_cosine


def make_optimizer(config: Config, decoder: Decoder, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the rate of each of ``steps`` steps: up in a line, down along half a cosine."""
    optimizer: torch.optim.Optimizer
    if config.optimizer == "muon":
        groups = muon_groups(parameter_groups(decoder, config.weight_decay), [decoder.decoder], config.muon_factor)
        optimizer = Muon(groups, config.rate)
    else:
        optimizer = adamw(decoder, config.rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
    warmup = min(round(config.warmup * steps), steps - 1)
    return optimizer, schedule_lr(optimizer, warmup_cosine(steps=steps, warmup=warmup, floor=config.floor))

"""AdamW with a rate for the head and one for the tactic, and the schedule that moves both."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils.news.config import Config
from course_utils.training import constant, parameter_groups, schedule_lr, warmup_cosine, warmup_linear

SCHEDULES = {"linear": warmup_linear, "cosine": warmup_cosine}


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW with up to four groups: the head and the rest, each with and without weight decay."""
    groups = []
    for group in parameter_groups(model, config.weight_decay):
        named: list[tuple[str, nn.Parameter]] = group["params"]
        for of_head, lr in ((True, config.head_rate), (False, config.tactic_lr)):
            if some := [(name, p) for name, p in named if bool(re.search(r"\b(head|classifier)\.", name)) == of_head]:
                groups.append({**group, "params": some, "lr": lr})
    return torch.optim.AdamW(groups)


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, steps: int) -> LambdaLR:
    """What all rates are multiplied by at each of the run's steps: up from 0 to 1, then down, or on."""
    warmup = int(config.warmup * steps)
    if config.schedule == "constant":
        return schedule_lr(optimizer, constant(warmup=warmup))
    return schedule_lr(optimizer, SCHEDULES[config.schedule](steps=steps, warmup=warmup))

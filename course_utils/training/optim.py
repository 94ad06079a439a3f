"""The optimizer of the course (AdamW, no decay where it makes no sense) and learning rates as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

RateSchedule = Callable[[int], float]  # step -> what each group's own learning rate is multiplied by, 0 to 1

# Weight decay pulls a weight towards zero. For the matrices that is the prior we want; for a position or class token,
# which is looked up and not multiplied by an input, it is not. (Biases and the gains of norms are found by being 1-D.)
NO_DECAY_NAMES = ("pos_embed", "position", "cls_token", "class_token", "mask_token", "register")


def parameter_groups(
    model: nn.Module, weight_decay: float, no_decay_names: Iterable[str] = NO_DECAY_NAMES
) -> list[dict[str, Any]]:
    """Split the parameters that are trained into those that decay and those that do not.

    No decay: parameters of at most one dimension (biases, gains of norms), weights of ``nn.Embedding``, and those whose
    name contains one of ``no_decay_names``. A parameter shared by two modules comes once.

    Returns:
        two groups for an optimizer, ``[decay, no decay]``, of named parameters; an empty group is left out.

    Raises:
        ValueError: a negative ``weight_decay``, or nothing to train.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay is {weight_decay}, expected 0 or more (0.05 to 0.1 is usual for a transformer)")
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decay: list[tuple[str, nn.Parameter]] = []
    no_decay: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            exempt = p.dim() <= 1 or id(p) in looked_up or any(part in name for part in no_decay_names)
            (no_decay if exempt else decay).append((name, p))
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    if not decay and not no_decay:
        raise ValueError("the model has no parameter with requires_grad=True: unfreeze what is to be trained")
    return [g for g in groups if g["params"]]


def adamw(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`: the decay is applied to the weights, not mixed into the gradient.

    Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, arXiv:1711.05101.
    """
    if lr <= 0:
        raise ValueError(f"lr is {lr}, expected a positive number (1e-3 is a usual start for a small transformer)")
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=eps)


def constant(*, warmup: int = 0) -> RateSchedule:
    """1 at every step, after a linear warm-up over ``warmup`` steps."""
    _check(0.0, warmup, None)
    return lambda step: step / warmup if step < warmup else 1.0


def warmup_cosine(*, steps: int, warmup: int = 0, floor: float = 0.0) -> RateSchedule:
    """Linear from 0 to 1 over ``warmup`` steps, then half a cosine down to ``floor`` at ``steps``; flat after it.

    With w = ``warmup``, T = ``steps``::

        f(t) = t / w                                                        for t < w
        f(t) = floor + (1 - floor) / 2 * (1 + cos(pi * (t - w) / (T - w)))  for w <= t <= T

    so the very first step (t = 0) of a run with warm-up moves nothing but the optimizer's averages.

    Source: Loshchilov and Hutter, *SGDR*, 2017, arXiv:1608.03983; the warm-up: Goyal et al., 2017, arXiv:1706.02677.
    """
    _check(floor, warmup, steps)

    def schedule(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = min(1.0, (step - warmup) / (steps - warmup))  # 0 -> 1 after the warm-up
        return floor + 0.5 * (1 - floor) * (1 + math.cos(math.pi * done))

    return schedule


def warmup_linear(*, steps: int, warmup: int = 0, floor: float = 0.0) -> RateSchedule:
    """Linear from 0 to 1 over ``warmup`` steps, then linear down to ``floor`` at ``steps``; flat after it."""
    _check(floor, warmup, steps)

    def schedule(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = min(1.0, (step - warmup) / (steps - warmup))
        return 1 + (floor - 1) * done

    return schedule


def schedule_lr(optimizer: torch.optim.Optimizer, schedule: RateSchedule) -> LambdaLR:
    """Let ``schedule`` multiply the learning rate of each group; call ``.step()`` after each optimizer step."""
    return LambdaLR(optimizer, schedule)


def averaging(model: nn.Module, share: float, steps: int) -> AveragedModel | None:
    """A running mean of the weights, ``mean += (weights - mean) / n`` after each step; None if ``share`` is 0.

    It looks back over about n steps, the given share of the run's. A fixed n that suits one run spoils a shorter one:
    its mean still holds weights from the run's middle.
    """
    if not share:
        return None
    decay = 1 - 1 / max(1.0, share * steps)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _check(floor: float, warmup: int, steps: int | None) -> None:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}, expected a share of the largest rate between 0 and 1")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup} steps, expected 0 or more")
    if steps is not None and warmup >= steps:
        raise ValueError(f"a warm-up of {warmup} steps leaves nothing of {steps} steps: choose warmup below steps")

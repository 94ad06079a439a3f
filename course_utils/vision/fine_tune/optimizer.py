"""A learning rate for each layer: the head learns fastest, the layers nearest the image slowest.

Source: Howard and Ruder 2018, arXiv:1801.06146 (discriminative fine-tuning); for ViT Bao et al. 2022, arXiv:2106.08254.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from course_utils.training import parameter_groups, schedule_lr, warmup_cosine
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.model import Classifier


def layer_groups(
    model: Classifier, lr: float, *, head_lr: float, layer_decay: float = 1.0, weight_decay: float = 0.05
) -> list[dict[str, Any]]:
    """What trains, in groups for an optimizer: of one place in the depth, and decayed or not.

    A parameter at place ``i`` of ``depth + 1`` (see :meth:`Classifier.place`) gets ``lr * layer_decay ** (depth + 1 -
    i)``; the head has ``head_lr``. Biases, norms, tokens and positions do not decay.
    """
    groups: dict[tuple[float, float], list[tuple[str, torch.nn.Parameter]]] = {}
    for group in parameter_groups(model, weight_decay):
        for name, parameter in group["params"]:
            distance = model.depth + 1 - model.place(name)
            own = head_lr if name.startswith(model.head_name + ".") else lr * layer_decay**distance
            groups.setdefault((own, group["weight_decay"]), []).append((name, parameter))
    return [{"params": params, "lr": own, "weight_decay": decay} for (own, decay), params in groups.items()]


def make_optimizer(model: Classifier, config: FineTune, steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW over :func:`layer_groups`, each group's rate warmed up and brought down by the same cosine."""
    rates = {"head_lr": config.head_lr, "layer_decay": config.layer_decay}
    optimizer = torch.optim.AdamW(layer_groups(model, config.rate, weight_decay=config.weight_decay, **rates))
    return optimizer, schedule_lr(optimizer, warmup_cosine(steps=steps, warmup=int(config.warmup * steps)))

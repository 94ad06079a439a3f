"""Bottleneck adapters on BERT base (Houlsby's, width 64): a training step against that of full fine-tuning.

peft has no such adapters. AdapterHub's library ``adapters`` has, but its newest release (1.3.0) asks for transformers
4.57 and cannot be imported beside transformers 5, whose huggingface_hub has no ``HfFolder`` any more. So there is no
other implementation to compare with.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from course_utils.bench.runner import Result, in_own_process
from course_utils.bench.tuning import BASE, compare_steps
from course_utils.models import TextConfig, TextModel
from course_utils.tuning import HOULSBY_PLACES, Bottleneck, inject

GOAL = 1.0


def run(repetitions: int) -> Iterator[Result]:
    """One thread; in a process of its own."""
    yield in_own_process(measure, BASE, repetitions, "adapter_training_step", GOAL)


def measure(config: TextConfig, repetitions: int, name: str, goal: float) -> Result:
    """Time both on one base; the adapters begin as the identity, so that the logits are equal."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    full = TextModel(config)
    ours = copy.deepcopy(full)
    inject(ours, Bottleneck(width=64), HOULSBY_PLACES, train="head")
    contestants = {"ours": (ours, ours), "full": (full, full)}
    return compare_steps(name, contestants, repetitions, goal, same_training=False)

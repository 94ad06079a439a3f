"""Prefix tuning on BERT base (10 keys and values a layer): a training step against peft's round transformers' BERT."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from course_utils.bench.runner import Result, in_own_process
from course_utils.bench.tuning import BASE, bert_like, compare_steps, copy_to_peft, with_peft
from course_utils.models import TextConfig, TextModel
from course_utils.tuning import Prefix, inject

GOAL = 1.0
LENGTH = 10


def run(repetitions: int) -> Iterator[Result]:
    """One thread; in a process of its own."""
    yield in_own_process(measure, BASE, repetitions, "prefix_training_step", GOAL)


def measure(config: TextConfig, repetitions: int, name: str, goal: float) -> Result:
    """Time two models of equal weights. peft cannot run on our encoder, which takes no cache of keys and values."""
    import peft

    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = TextModel(config)
    ours = copy.deepcopy(base)
    inject(ours, Prefix(length=LENGTH), ["attention", "position_embedding"], train="head")  # positions as peft has them
    options = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
    theirs = with_peft(bert_like(base), options)
    copy_to_peft(ours, theirs)
    return compare_steps(
        name,
        {
            "ours": (ours, ours),
            "peft_transformers": (theirs, lambda ids, mask: theirs(input_ids=ids, attention_mask=mask.long()).logits),
        },
        repetitions,
        goal,
        peft_version=peft.__version__,
    )

"""LoRA on BERT base (r = 8 on q, k, v): a training step against peft's, round our encoder and transformers'."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from course_utils.bench.runner import Result, in_own_process
from course_utils.bench.tuning import BASE, bert_like, compare_steps, with_peft
from course_utils.models import TextConfig, TextModel
from course_utils.tuning import LoRA, LowRank, inject

GOAL = 1.0
AT_LEAST = 15  # repetitions: nearly all of a step is the frozen model's, the same for all, and the rest is small
METHOD = LoRA(rank=8, alpha=16)


def run(repetitions: int) -> Iterator[Result]:
    """One thread; in a process of its own."""
    yield in_own_process(measure, BASE, max(repetitions, AT_LEAST), "lora_training_step", GOAL)


def measure(config: TextConfig, repetitions: int, name: str, goal: float) -> Result:
    """Time three models of equal weights: our LoRA, peft's round the same encoder, peft's round transformers' BERT."""
    import peft

    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = TextModel(config)
    ours = copy.deepcopy(base)
    inject(ours, METHOD, ["q_proj", "k_proj", "v_proj"], train="head")
    theirs = {}
    for who, model, targets, head in (
        ("peft", base, ["q_proj", "k_proj", "v_proj"], "head"),
        ("peft_transformers", bert_like(base), ["query", "key", "value"], "classifier"),
    ):
        options = peft.LoraConfig(
            r=METHOD.rank, lora_alpha=int(METHOD.alpha), target_modules=targets, modules_to_save=[head]
        )
        theirs[who] = with_peft(model, options)
    pairs = [(part.A, part.B) for part in ours.modules() if isinstance(part, LowRank)]
    for _, b in pairs:
        torch.nn.init.normal_(b, std=0.02)  # away from the start, where half of the gradients are zero
    for model in theirs.values():
        layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
        for (a, b), layer in zip(pairs, layers, strict=True):
            layer.lora_A["default"].weight.data.copy_(a)
            layer.lora_B["default"].weight.data.copy_(b)
    hugging_face = theirs["peft_transformers"]
    return compare_steps(
        name,
        {
            "ours": (ours, ours),
            "peft": (theirs["peft"], theirs["peft"]),
            "peft_transformers": (
                hugging_face,
                lambda ids, mask: hugging_face(input_ids=ids, attention_mask=mask.long()).logits,
            ),
        },
        repetitions,
        goal,
        peft_version=peft.__version__,
    )

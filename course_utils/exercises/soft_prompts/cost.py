"""10.3: the arithmetic of a training step, counted before it runs."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_step_macs = Check(
    "soft_prompts.3", "step_macs", parameters=("tokens", "length", "width", "hidden", "depth", "method")
)


def _counts(tokens: int, width: int, hidden: int, depth: int) -> tuple[int, int]:
    """MACs of all layers for one text: products with weights, and products of two activations."""
    return depth * (4 * tokens * width**2 + 2 * tokens * width * hidden), depth * 2 * tokens**2 * width


def _step(answer: Answer, tokens: int, length: int, width: int, hidden: int, depth: int, method: str) -> None:
    read = tokens + length * (method == "prompt")
    linear, scores = _counts(read, width, hidden, depth)
    short_linear, short_scores = _counts(tokens, width, hidden, depth)
    forward = linear + scores
    want = 3 * forward if method == "full" else 2 * linear + 3 * scores
    suspects = {
        "This is the forward pass alone. Backward costs as much again, or twice as much.": forward,
        "These are FLOPs. One multiply-accumulate counts once here.": 2 * want,
        "The prompt is not counted here: with it a text has tokens + length tokens, in every layer.":
            2 * short_linear + 3 * short_scores,
        "This counts as if all weights trained. With a prompt alone no gradient of a weight is formed.":
            3 * forward,
        "Backward is counted as one forward pass here. In attention both factors are activations: two products each.":
            2 * forward,
        "A prompt's own gradient is not all: it has to come down through every layer.": forward + short_scores,
        "The MLP has two matrices, width x hidden and hidden x width.": want - (2 if method != "full" else 3)
        * depth * read * width * hidden,
        "Attention has four matrices: queries, keys, values and the output.": want - (2 if method != "full" else 3)
        * depth * read * width**2,
        "Everything is done in every layer: multiply by depth.": want // depth if depth > 1 else -1,
    }  # fmt: skip
    arguments = (tokens, length, width, hidden, depth, method)
    named = zip(check_step_macs.parameters, arguments, strict=True)
    given = f"{answer.name}({', '.join(f'{name}={value!r}' for name, value in named)})"
    answer.expect(want, *arguments, given=given, suspects={s: v for s, v in suspects.items() if v != want})


@check_step_macs.point(
    "full fine-tuning of BERT base on 20 tokens",
    hint="Each layer: four D x D, two D x F, and 2 N N D for scores and their mean. Three times that with backward.",
)
def _(answer: Answer, rng: Rng) -> None:
    _step(answer, 20, 10, 768, 3072, 12, "full")


@check_step_macs.point(
    "full fine-tuning of any size; a prompt that is not there costs nothing",
    hint="Take hidden and depth from the arguments; with method full, length does not count.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        tokens, width, hidden, depth, length = (int(n) for n in rng.integers(2, 90, 5))
        _step(answer, tokens, length, width, hidden, depth, "full")


@check_step_macs.point(
    "a prompt for BERT base: 30 tokens, and no weight gradient",
    hint="Forward and the input gradients of every product with weights: twice. Scores: three times.",
)
def _(answer: Answer, rng: Rng) -> None:
    _step(answer, 20, 10, 768, 3072, 12, "prompt")


@check_step_macs.point(
    "prompts of any length",
    hint="With N + l tokens everything grows, the scores by the square.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        tokens, width, hidden, depth, length = (int(n) for n in rng.integers(2, 90, 5))
        _step(answer, tokens, length, width, hidden, depth, "prompt")

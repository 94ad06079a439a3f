"""Count the parameters of a decoder."""

from __future__ import annotations

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check

Rng = np.random.Generator

SIZES = ("words", "width", "depth", "heads", "kv_heads", "head_width", "hidden", "tied")
check_count_decoder = Check("the_transformer.3", "count_decoder", parameters=SIZES)
LLAMA = {"words": 128256, "width": 4096, "depth": 32, "heads": 32, "kv_heads": 8, "head_width": 128, "hidden": 14336}


def _counts(answer: Answer, **changes: int) -> None:
    sizes = {**LLAMA, "tied": False, **changes}
    words, width, depth, heads, kv_heads, head_width, hidden, tied = (sizes[name] for name in SIZES)
    queries, keys = width * heads * head_width, width * kv_heads * head_width
    tables = words * width * (1 if tied else 2)
    want = tables + depth * (2 * queries + 2 * keys + 3 * width * hidden + 2 * width) + width
    suspects = {
        "Keys and values are counted here as if there were as many heads of them as of queries.":
            want + depth * 2 * (queries - keys),
        "Queries and output projection have heads * head_width columns, not width.":
            want + depth * 2 * (width * width - queries),
        "The gated MLP has three matrices, not two.": want - depth * width * hidden,
        "The output projection of attention is missing here.": want - depth * queries,
        "The norms of the layers are missing here: two of D numbers each.": want - depth * 2 * width,
        "An RMSNorm has D numbers, not 2 D: it has no bias.": want + (2 * depth + 1) * width,
        "The last norm, behind the layers, is missing here.": want - width,
        "A tied head is the table itself: it is counted once.": want + words * width * tied,
        "A head that is not tied has a table of its own.": want - words * width * (not tied),
        "There are no biases in this model.":
            want + depth * (heads * head_width + 2 * kv_heads * head_width + width + 2 * hidden + width),
    }  # fmt: skip
    given = f"{answer.name}({', '.join(f'{name}={sizes[name]}' for name in SIZES)})"
    arguments = [sizes[name] for name in SIZES]
    answer.expect(want, *arguments, given=given, suspects={s: n for s, n in suspects.items() if n != want})


@check_count_decoder.point(
    "Llama 3.1 8B",
    hint="8,030,261,248. A layer has 218,112,000: four matrices of attention, three of the MLP, two norms.",
)
def _(answer: Answer, rng: Rng) -> None:
    _counts(answer)


@check_count_decoder.point(
    "a head that is tied, and one that is not",
    hint="Tied, the head is the table of words, and adds nothing.",
)
def _(answer: Answer, rng: Rng) -> None:
    for tied in (True, False):
        _counts(answer, words=int(rng.integers(100, 9000)), tied=tied)


@check_count_decoder.point(
    "other numbers of heads of keys and values",
    hint="k_proj and v_proj have kv_heads * head_width columns each.",
)
def _(answer: Answer, rng: Rng) -> None:
    for kv_heads in (1, 4, 32):
        _counts(answer, kv_heads=kv_heads, depth=int(rng.integers(1, 5)))


@check_count_decoder.point(
    "heads whose widths together are not the model's",
    hint="Qwen3 0.6B has width 1024 and 16 heads of 128: q_proj goes from 1024 to 2048.",
)
def _(answer: Answer, rng: Rng) -> None:
    _counts(answer, width=1024, heads=16, kv_heads=8, hidden=3072, depth=28, words=151936, tied=True)
    _counts(answer, width=int(rng.integers(3, 60)), heads=6, kv_heads=3, head_width=10, depth=2)


@check_count_decoder.point(
    "any depth and any hidden width",
    hint="What stands in a layer counts depth times; table, last norm and head once.",
)
def _(answer: Answer, rng: Rng) -> None:
    for depth in (1, int(rng.integers(2, 90))):
        _counts(answer, depth=depth, hidden=int(rng.integers(10, 9000)))

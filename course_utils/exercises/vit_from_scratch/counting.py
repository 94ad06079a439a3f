"""13.4: count the parameters of a ViT."""

from __future__ import annotations

from typing import Any

import numpy as np

from course_utils.exercises.answer import Answer
from course_utils.exercises.check import Check
from course_utils.models import ViTConfig
from course_utils.plan.flops import vit_parameters

Rng = np.random.Generator

check_count_parameters = Check(
    "vit_from_scratch.4",
    "count_parameters",
    parameters=("image_size", "patch_size", "channels", "width", "depth", "mlp_width", "num_classes"),
)


def _counts(answer: Answer, **sizes: Any) -> None:
    width, hidden, depth = sizes["width"], sizes["mlp_width"], sizes["depth"]
    fields = {name: value for name, value in sizes.items() if name != "mlp_width"}
    parts = vit_parameters(ViTConfig(**fields, mlp_ratio=hidden / width, heads=1))
    want = sum(parts.values())
    biases = width + depth * (4 * width + hidden + width) + sizes["num_classes"]
    suspects = {
        "All biases are missing here: a Linear from A to B has A * B + B parameters.": want - biases,
        "The class token has a row in the position table too: P + 1 rows.": want - width,
        "The last LayerNorm, behind the encoder, is missing here.": want - 2 * width,
        "The norms are missing here: two LayerNorms a layer and one behind the last, 2 D parameters each.":
            want - parts["norms"],
        "A layer has two LayerNorms, not one.": want - depth * 2 * width,
        "The output projection of attention is missing here: D * D + D in each layer.": want - parts["out"],
        "The positions are missing here.": want - parts["positions"],
        "The head is missing here.": want - parts["head"],
        "With num_classes = 0 there is no head, and so no bias of one.": want + 1,
    }  # fmt: skip
    arguments = [sizes[name] for name in check_count_parameters.parameters]
    given = f"{answer.name}({', '.join(f'{name}={sizes[name]}' for name in check_count_parameters.parameters)})"
    answer.expect(want, *arguments, given=given, suspects={s: v for s, v in suspects.items() if v != want})


_B16 = {"image_size": 224, "patch_size": 16, "channels": 3, "width": 768, "depth": 12, "mlp_width": 3072}


@check_count_parameters.point(
    "ViT-B/16 with 1000 classes",
    hint="One layer has 7,087,872. Print your parts beside the table of the chapter.",
)
def _(answer: Answer, rng: Rng) -> None:
    _counts(answer, **_B16, num_classes=1000)


@check_count_parameters.point(
    "any number of layers and any width",
    hint="Everything inside a layer counts depth times; embedding, last norm and head once.",
)
def _(answer: Answer, rng: Rng) -> None:
    for depth in (1, int(rng.integers(2, 30))):
        width = int(rng.integers(5, 300))
        _counts(answer, **{**_B16, "depth": depth, "width": width, "mlp_width": 4 * width}, num_classes=7)


@check_count_parameters.point(
    "an MLP that is not four times as wide",
    hint="The MLP goes from width to mlp_width and back; 4 * width is only the usual choice.",
)
def _(answer: Answer, rng: Rng) -> None:
    for width in (64, 96):
        _counts(answer, **{**_B16, "width": width, "mlp_width": int(rng.integers(10, 200))}, num_classes=10)


@check_count_parameters.point(
    "other images, patches and channels",
    hint="P is (image_size // patch_size) squared, and a patch has channels * patch_size squared numbers.",
)
def _(answer: Answer, rng: Rng) -> None:
    for channels in (1, 4):
        patch, side = int(rng.integers(2, 9)), int(rng.integers(2, 9))
        sizes = {**_B16, "image_size": patch * side, "patch_size": patch, "channels": channels}
        _counts(answer, **sizes, num_classes=3)


@check_count_parameters.point(
    "no classes: no head at all",
    hint="With num_classes = 0 the model returns features and the head has neither weight nor bias.",
)
def _(answer: Answer, rng: Rng) -> None:
    _counts(answer, **{**_B16, "depth": int(rng.integers(1, 9))}, num_classes=0)

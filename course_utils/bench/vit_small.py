"""As vit, at 32 pixels: patch 4, width 192, 9 layers, training step of a batch of 64, against timm and transformers."""

from __future__ import annotations

from collections.abc import Iterator

from course_utils.bench.runner import Result, in_own_process
from course_utils.bench.vit import measure
from course_utils.models import ViTConfig

GOAL = 1.0
BATCH = 64
SMALL = ViTConfig(image_size=32, patch_size=4, width=192, depth=9, heads=3, num_classes=10)


def run(repetitions: int) -> Iterator[Result]:
    """See :func:`course_utils.bench.vit.measure`; two threads."""
    yield from in_own_process(measure, SMALL, 2, repetitions, "vit_small", GOAL, BATCH)

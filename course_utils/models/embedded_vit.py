"""The pretrained Vision Transformer that comes with the course: it tells a thousand kinds of drawn clothes apart.

The kinds are 40 outlines times 25 fabrics, which nobody ever made. What the model is and what it reaches stands in its
card, ``embedded_files/vit.md``; the script that drew the images and trained it is ``tools/make_vit.py``. The weights
are stored in FP16.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from course_utils.models.checkpoint_files import unpack_embedded
from course_utils.models.loading import load_vit
from course_utils.models.vit import ViT

VIT = resources.files("course_utils.models") / "embedded_files" / "vit.safetensors"
VIT_SHA256 = "f0f365a0df73d929764600dc0cbdad77cb890db2f9e108b23d64b8cf7a81a153"  # as tools/make_vit prints it
STATISTICS = ((0.3,), (0.35,))  # mean and deviation that its pixels, 0 to 1, were normalised with


def load_embedded_vit(num_classes: int | None = None, **changes: Any) -> ViT:
    """The embedded ViT in float32: 28 x 28 grey pixels, white on black, normalised with :data:`STATISTICS`.

    Args:
        num_classes: classes of a fresh head, drawn from torch's generator; None keeps the head for the 1,000
            drawn kinds, 0 leaves it out, and the model returns features.
        changes: other arguments of :func:`~course_utils.models.loading.load_vit`, such as ``image_size=56`` or
            ``drop_path=0.1``.

    Raises:
        ValueError: the file that was installed is not the one that was made.
    """
    weights, header = unpack_embedded(VIT.read_bytes(), VIT_SHA256, "vit")
    return load_vit(
        weights, heads=header["heads"], num_classes=num_classes, replace_head=num_classes is not None, **changes
    )

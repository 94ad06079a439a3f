"""The model of a recipe: fresh weights that depend on its seed alone."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from course_utils.models import ViT, ViTConfig
from course_utils.models.stems import ConvStem
from course_utils.training import Precision
from course_utils.vision.from_scratch.config import FromScratch


def build_model(config: FromScratch, shape: tuple[int, int, int], classes: int, precision: Precision = "fp32") -> ViT:
    """A fresh model for images of ``shape`` (channels, height, width); its weights depend on the recipe's seed alone.

    Raises:
        ValueError: the images cannot be cut into the recipe's patches; the message says what fits.
    """
    channels, height, width = shape
    sizes = ViTConfig(
        image_size=(height, width) if config.image_size is None else config.image_size,
        patch_size=config.patch_size,
        channels=channels,
        num_classes=classes,
        **{key: getattr(config, key) for key in ("width", "depth", "heads", "mlp_ratio", "pool", "drop_path")},
        class_token=config.pool == "cls",
        # torch 2.14's fused attention needs a hundred times longer for its backward pass in bfloat16 on a CPU.
        attention="written_out" if precision == "bf16" and not torch.cuda.is_available() else "sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if not config.stem:
            return ViT(sizes)
        return ViT(sizes, partial(ConvStem, channels=config.stem))


class Mirrored(nn.Module):
    """The mean of what a model says of an image and of its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to logits ``[B, classes]``."""
        logits: Tensor = (self.model(x) + self.model(x.flip(-1))) / 2
        return logits

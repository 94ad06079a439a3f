"""What decides a Vision Transformer: its sizes and options, checked when they are chosen, and the named sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from course_utils.models.encoder import EncoderConfig

Size = int | tuple[int, int]  # one number for a square, or (height, width)

PRESETS: dict[str, dict[str, Any]] = {
    "tiny16": {"width": 192, "depth": 12, "heads": 3},
    "small16": {"width": 384, "depth": 12, "heads": 6},
    "base16": {"width": 768, "depth": 12, "heads": 12},
    "base32": {"width": 768, "depth": 12, "heads": 12, "patch_size": 32},
    "large16": {"width": 1024, "depth": 24, "heads": 16},
    # For images of 32 x 32 pixels, such as CIFAR-10's.
    "micro4": {"width": 128, "depth": 6, "heads": 4, "mlp_ratio": 2.0, "image_size": 32, "patch_size": 4},
    "tiny4": {"width": 192, "depth": 12, "heads": 3, "image_size": 32, "patch_size": 4},
    "small4": {"width": 384, "depth": 12, "heads": 6, "image_size": 32, "patch_size": 4},
    "base4": {"width": 768, "depth": 12, "heads": 12, "image_size": 32, "patch_size": 4},
}


@dataclass(frozen=True, kw_only=True)
class ViTConfig(EncoderConfig):
    """Everything that decides what a :class:`ViT` computes: the encoder's fields and these.

    Args:
        image_size: pixels, one number or (height, width); multiples of ``patch_size``.
        patch_size: pixels of a patch, one number or (height, width).
        channels: 3 for colour, 1 for grey.
        num_classes: width of the head's output; 0 for no head, which makes the model return features.
        pool: what the head reads: ``"cls"``, the class token, or ``"mean"``, the mean of the patches.
        class_token: whether there is one; ``pool="cls"`` needs it.
        class_position: whether the class token has a row of its own in the position table, as in the paper.
        registers: further learned tokens, without position and never read: scratch paper for the encoder.
        mask_token: whether there is a learned token that stands in for masked patches.
        antialias: how positions are interpolated: as Pillow and timm do (True) or as transformers does (False).
            The two differ even when enlarging: their cubic curves have other coefficients.

    Raises:
        ValueError: with the value, what was expected, and what to change.
    """

    image_size: Size = 224
    patch_size: Size = 16
    channels: int = 3
    num_classes: int = 1000
    pool: Literal["cls", "mean"] = "cls"
    class_token: bool = True
    class_position: bool = True
    registers: int = 0
    mask_token: bool = False
    antialias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            if not all(isinstance(n, int) and n > 0 for n in numbers):
                raise ValueError(f"{name} {value!r} is no size: give one number of pixels or (height, width)")
        if not isinstance(self.channels, int) or self.channels < 1:
            raise ValueError(f"channels {self.channels!r} is no count: choose 3 for colour images, 1 for grey ones")
        for name in ("num_classes", "registers"):
            if not isinstance(value := getattr(self, name), int) or value < 0:
                raise ValueError(f"{name} {value!r} is no count: choose 0 for none, or a whole number above")
        if self.pool not in ("cls", "mean"):
            raise ValueError(f'pool {self.pool!r} is unknown: choose "cls" (class token) or "mean" (mean of patches)')
        if self.pool == "cls" and not self.class_token:
            raise ValueError('pool "cls" reads a class token, but class_token is False: make that True, or pool "mean"')
        patch_grid(pair(self.image_size), pair(self.patch_size))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViTConfig:
        """A named size, such as ``"base16"`` (ViT-B/16), with some fields changed."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return patch_grid(pair(self.image_size), pair(self.patch_size))

    @property
    def patches(self) -> int:
        """``P``."""
        return self.grid[0] * self.grid[1]

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token and registers."""
        return self.class_token + self.registers

    @property
    def position_rows(self) -> int:
        """Rows of the position table: one per patch, and one for the class token if it has a position."""
        return (self.class_token and self.class_position) + self.patches


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    return size if isinstance(size, tuple) else (size, size)


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Patches down and across an image of (height, width) pixels; ValueError if they do not fill it."""
    for side, pixels, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if pixels % patch or not pixels:
            below = pixels // patch * patch
            near = " or ".join(str(n) for n in (below, below + patch) if n)
            raise ValueError(f"image {side} {pixels} is no multiple of the patch's {patch}: resize or pad it to {near}")
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]

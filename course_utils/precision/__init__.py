"""Number formats, block formats, summation, and what mixed precision is made of."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]  # of matrix products; a room that takes fewer refuses the others

__all__ = ["Precision"]

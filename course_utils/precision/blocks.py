"""Block formats: a few small numbers share one scale (MXFP8, MXFP6, MXFP4 and NVFP4).

Four bits reach from 0.5 to 6 only. A block of neighbours therefore stores one scale beside its small codes, so that the
format follows the data up and down. Sources: OCP Microscaling Formats (MX) specification 1.0, section 6.3 (block of 32,
scale E8M0); NVIDIA's NVFP4 (block of 16, scale FP8 E4M3 and one FP32 factor per tensor).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from course_utils.precision.formats import E8M0, FP4_E2M1, FP8_E4M3, Codes, Format, Values


@dataclass(frozen=True)
class BlockFormat:
    """Elements of ``element`` format in blocks of ``size`` that share one ``scale``."""

    name: str
    element: Format
    scale: Format
    size: int

    @property
    def bits_per_element(self) -> float:
        """Storage per element in bits, its share of the scale included (a factor per tensor is not counted)."""
        return self.element.bits + self.scale.bits / self.size

    def quantise(self, values: ArrayLike) -> Blocks:
        """Values [..., n] -> blocks along the last axis.

        Raises:
            ValueError: when n is no multiple of the block size, or a value is not finite.
        """
        x = np.asarray(values, dtype=np.float64)
        if x.shape[-1] % self.size:
            raise ValueError(
                f"{self.name} takes blocks of {self.size}; the last axis has {x.shape[-1]} values: pad it to a multiple"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"{self.name} blocks hold finite values only: found infinity or NaN")
        blocks = x.reshape(*x.shape[:-1], -1, self.size)  # [..., blocks, size]
        largest = np.abs(blocks).max(-1, keepdims=True)  # [..., blocks, 1]

        if self.scale is E8M0:
            # A power of two that moves the leading bit of the largest element to the top binade of the element format.
            factor = 1.0
            top = np.floor(np.log2(self.element.max))
            with np.errstate(divide="ignore"):
                exponent = np.floor(np.log2(largest)) - top
            scales = E8M0.encode(np.ldexp(1.0, np.clip(exponent, -127, 127).astype(np.int64)))
        else:
            # A true quotient, rounded to the scale's format; the factor per tensor makes its maximum the largest scale.
            factor = float(largest.max() / (self.element.max * self.scale.max)) or 1.0
            scales = self.scale.encode(largest / self.element.max / factor, saturate=True)

        step = self.scale.decode(scales) * factor
        elements = self.element.encode(
            np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0), saturate=True
        )
        return Blocks(self, scales, elements, factor)

    def round(self, values: ArrayLike) -> Values:
        """Values [..., n] -> what is left of them after being stored in this format."""
        return self.quantise(values).decode()


@dataclass(frozen=True)
class Blocks:
    """Stored blocks: scale codes [..., blocks, 1], element codes [..., blocks, size], and one factor for the tensor."""

    format: BlockFormat
    scales: Codes
    elements: Codes
    factor: float

    def decode(self) -> Values:
        """The values [..., n]."""
        values = self.format.element.decode(self.elements) * self.format.scale.decode(self.scales) * self.factor
        return values.reshape(*values.shape[:-2], -1)


MXFP8 = BlockFormat("MXFP8", FP8_E4M3, E8M0, 32)
MXFP4 = BlockFormat("MXFP4", FP4_E2M1, E8M0, 32)
NVFP4 = BlockFormat("NVFP4", FP4_E2M1, FP8_E4M3, 16)

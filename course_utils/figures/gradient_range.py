"""The answers of the figure ``gradient_range``: between which powers of two a format has numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from course_utils.precision.formats import Format


def answers(sizes: Iterable[float], formats: Iterable[Format], images: int) -> dict[str, Any]:
    """Args: ``sizes``, log2 of gradients of a loss that is a mean over ``2 ** images`` images."""
    described = [{"name": f.name, "limits": limits(f)} for f in formats]
    return {"sizes": [round(size, 2) for size in sizes], "images": images, "formats": described}


def limits(fmt: Format) -> tuple[float, float, float]:
    """Powers of two by which rounding to the nearest decides: a number up to and with the first becomes zero, below the
    second it is subnormal, from the third on it overflows."""
    step = 2.0 ** (math.floor(math.log2(fmt.max)) - fmt.mantissa_bits)  # between the largest numbers
    return math.log2(fmt.smallest_subnormal / 2), math.log2(fmt.smallest_normal), math.log2(fmt.max + step / 2)

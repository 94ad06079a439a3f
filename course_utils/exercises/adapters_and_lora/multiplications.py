"""How many multiplications an answer's matrix products take, from the shapes that torch's profiler notes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.autograd.profiler_legacy import profile

# Where the two factors stand among the arguments; addmm and its like add something first.
_FACTORS = {"aten::mm": 0, "aten::bmm": 0, "aten::mv": 0, "aten::dot": 0, "aten::addmm": 1, "aten::baddbmm": 1}
_FACTORS["aten::addmv"] = 1


def multiplications(call: Callable[[], object]) -> int:
    """Those of all matrix products in ``call()``; sums and elementwise products are not counted."""
    with profile(record_shapes=True) as seen, torch.no_grad():
        call()
    total = 0
    for event in seen.function_events or []:
        if (at := _FACTORS.get(event.name)) is not None:
            left, right = event.input_shapes[at : at + 2]
            columns = right[-1] if len(right) > 1 else 1
            total += math.prod(left) * columns
    return total

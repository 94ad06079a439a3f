"""Three ways to add many numbers in one format. The order of the additions decides how much is lost.

The sum of n numbers in a format with unit roundoff u has a relative error of at most about
n*u one after another, log2(n)*u in pairs, and 2u with Kahan's compensation, for numbers of one sign (Higham 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def naive_sum(x: Floats) -> Floats:
    """Sum over the first axis, one after another, every partial sum rounded to ``x.dtype``. [n, ...] -> [...]."""
    return np.add.accumulate(x, axis=0, dtype=x.dtype)[-1]


def pairwise_sum(x: Floats) -> Floats:
    """Sum over the first axis by adding neighbours until one is left. [n, ...] -> [...]."""
    while len(x) > 1:
        odd = x[-1:] if len(x) % 2 else x[:0]  # has no partner in this round
        x = np.concatenate([x[0 : len(x) - 1 : 2] + x[1::2], odd])
    return x[0]


def kahan_sum(x: Floats) -> Floats:
    """Sum over the first axis with compensation: what one addition loses goes into the next. [n, ...] -> [...]."""
    total = np.zeros_like(x[0])
    lost = np.zeros_like(total)
    for row in x:
        row = row - lost
        new_total = total + row
        lost = (new_total - total) - row  # arrived minus sent: 0 if exact
        total = new_total
    return total

"""A set of labelled texts cut in two: by label, by chance with a seed, and never through the same text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence


def stratified(texts: Sequence[str], labels: Sequence[str], count: int, seed: int) -> list[int]:
    """About ``count`` rows, of each label its share to the nearest row, in the order of the set.

    A text that stands in several rows is drawn with all of them or not at all: in two parts of a set, a model would be
    judged on what it learned by heart. So the number may be off by a few. One row of each label is always left.

    Returns:
        the numbers of the rows, sorted.

    Raises:
        ValueError: ``count`` is not from 0 to the number of rows.
    """
    if not 0 <= count <= len(texts):
        raise ValueError(f"count is {count:,}, expected 0 to {len(texts):,}, the rows that there are")
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    members: dict[str, list[str]] = {}  # the different texts of each label
    for text, places in rows.items():
        members.setdefault(labels[places[0]], []).append(text)
    shares = _apportioned({label: len(found) for label, found in members.items()}, count / len(texts), seed)
    drawn: list[int] = []
    for label, found in members.items():
        # A generator for each label: another label's rows do not move the draw.
        for text in random.Random(f"{seed} {label}").sample(found, shares[label]):
            drawn += rows[text]
    return sorted(drawn)


def _apportioned(sizes: dict[str, int], share: float, seed: int) -> dict[str, int]:
    """The share of each size in whole numbers, their sum that of the whole: what rounding down leaves goes to the
    largest remainders, among equal ones by chance (Hamilton's method). Never all of a label."""
    exact = {label: share * size for label, size in sizes.items()}
    given = {label: min(int(value), max(0, sizes[label] - 1)) for label, value in exact.items()}
    draw = random.Random(seed)
    order = sorted(exact, key=lambda label: (given[label] - exact[label], draw.random()))
    left = round(share * sum(sizes.values())) - sum(given.values())
    for label in order:
        if left > 0 and given[label] < sizes[label] - 1:
            given[label] += 1
            left -= 1
    return given


def rare(labels: Iterable[str], fewest: int) -> dict[str, int]:
    """The labels that stand fewer times than that, and how often."""
    return {label: count for label, count in Counter(labels).items() if count < fewest}

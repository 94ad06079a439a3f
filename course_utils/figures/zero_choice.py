"""The answers of the figure ``zero_choice``: for one parameter of a model, what each choice of ZeRO holds and moves."""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.figures.zero_stages import RANKS
from course_utils.zero.choice import CHOICES, Machine, states, step

UNIT = Machine(*[1.0] * 7)  # one byte or operation a second: the seconds of a step are what it moves


def answers() -> dict[str, Any]:
    """``choices``, their names, and ``amounts``, a list for each of them: bytes on the device and on the host;
    operations for a token; bytes over the link and over the link to the host; bytes that the update reads and writes,
    and whether it does so in the host's memory."""
    return {"choices": [choice.name for choice in CHOICES], "amounts": tabulate(_amounts, ranks=RANKS)}


def _amounts(ranks: int) -> dict[str, Any]:
    rows = [[*states(c, 1, ranks), *step(c, 1, ranks, 1, UNIT), c.offload_optimizer] for c in CHOICES]
    return {"rows": rows}

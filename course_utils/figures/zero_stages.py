"""The answers of the figure ``zero_stages``: bytes held and sent, for each parameter of a model."""

from __future__ import annotations

from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.precision import Precision
from course_utils.zero.cost import STAGES, sent_per_rank, states_per_rank

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
PRECISIONS = ("bf16", "fp32")


def answers() -> dict[str, Any]:
    """``held``: for each stage the bytes of a parameter on a device, by kind, and in host memory; stage 0 has nothing
    to offload. ``sent``: for each stage the bytes of a parameter that a rank sends in a step."""
    return {
        "held": tabulate(_held, ranks=RANKS, precision=PRECISIONS, offload=(False, True)),
        "sent": tabulate(_sent, ranks=RANKS, precision=PRECISIONS, micro_batches=MICRO_BATCHES),
    }


def _held(ranks: int, precision: Precision, offload: bool) -> dict[str, Any]:
    both = [states_per_rank(1, ranks, stage, precision=precision, offload=offload and stage > 0) for stage in STAGES]
    return {"device": [list(device) for device, _ in both], "host": [host.total for _, host in both]}


def _sent(ranks: int, precision: Precision, micro_batches: int) -> dict[str, Any]:
    return {
        "stages": [
            sum(sent_per_rank(1, ranks, stage, precision=precision, micro_batches=micro_batches).values())
            for stage in STAGES
        ]
    }

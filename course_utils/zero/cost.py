"""ZeRO's formulas: bytes that a rank holds, and bytes that it sends in a step. ``P`` trained parameters on ``N`` ranks.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, sections 5 and 7, Table 1 (memory and communication);
Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840 (what lies in host memory).
"""

from __future__ import annotations

from typing import NamedTuple

from course_utils.measure.communication import all_gather_bytes, reduce_scatter_bytes
from course_utils.plan.memory import FP32_ADAM, MASTER_ADAM, ModelStates
from course_utils.precision import Precision

STAGES = (0, 1, 2, 3)
PER_PARAMETER: dict[str, ModelStates] = {"fp32": FP32_ADAM, "bf16": MASTER_ADAM, "fp16": MASTER_ADAM}


class States(NamedTuple):
    """Bytes of the model states on one rank, on its device or in host memory."""

    parameters: float
    gradients: float
    master_weights: float
    optimizer_state: float

    @property
    def total(self) -> float:
        return sum(self)


def states_per_rank(
    parameters: float, ranks: int, stage: int, *, precision: Precision = "bf16", offload: bool = False
) -> tuple[States, States]:
    """What one rank holds between backward and step: on its device, and in host memory.

    With K bytes of optimizer state for each parameter (12 for Adam beside BF16: master weights and two moments; in FP32
    the weights are their own master copy) and weights and gradients of ``w`` bytes: stage 0 w P + w P + K P; stage 1
    divides K P by N, stage 2 the gradients too, stage 3 the weights too. Offload moves K P / N to the host, from
    stage 2 also the averaged gradients. FP32 weights need a master copy of their own there.

    Raises:
        ValueError: no such stage or precision, fewer than one rank, or offload with stage 0.
    """
    _check(precision, stage, ranks)
    if offload and stage == 0:
        raise ValueError("offload moves a rank's shard to its host, and stage 0 has none: choose stage 1, 2 or 3")
    each = PER_PARAMETER[precision]
    weights = each.weights * parameters / (ranks if stage >= 3 else 1)
    gradients = each.gradients * parameters / (ranks if stage >= 2 else 1)
    share = parameters / (ranks if stage >= 1 else 1)
    masters, moments = each.master_weights * share, each.moments * share
    if not offload:
        return States(weights, gradients, masters, moments), States(0, 0, 0, 0)
    moved = gradients if stage >= 2 else 0
    return States(weights, gradients - moved, 0, 0), States(0, moved, 4 * share, moments)


def sent_per_rank(
    parameters: float,
    ranks: int,
    stage: int,
    *,
    precision: Precision = "bf16",
    states: ModelStates | None = None,
    micro_batches: int = 1,
) -> dict[str, float]:
    """Bytes that one rank sends in one step, by collective: with S the bytes of all gradients, as of all weights.

    A reduce-scatter and an all-gather send (N-1)/N S each, an all-reduce both. Stages 0 to 2 send 2 (N-1)/N S, stage 3
    sends 3 (N-1)/N S: weights for forward, weights for backward, gradients. (The paper writes 2 P and 3 P: numbers
    instead of bytes, and N large.)

    Args:
        states: bytes of a weight and of a gradient, in place of the precision's.
        micro_batches: of one step. Stages 0 and 1 add gradients up before they are sent, once. Stage 2 keeps no whole
            gradients and reduces in every micro-batch; stage 3 also gathers in every one.
    """
    _check(precision, stage, ranks)
    per = states or PER_PARAMETER[precision]
    scatter = reduce_scatter_bytes(per.gradients * parameters, ranks)
    gather = all_gather_bytes((per.unit if stage == 3 else per.weights) * parameters, ranks)
    if stage == 0:
        return {"all_reduce": 2 * scatter}
    times = micro_batches if stage >= 2 else 1
    return {"reduce_scatter": times * scatter, "all_gather": (2 * micro_batches if stage == 3 else 1) * gather}


def break_even_ranks(precision: Precision = "bf16") -> float:
    """From how many ranks on stage 3 holds no more on a device than stage 2 with offload: 16 P / N against 2 P."""
    return PER_PARAMETER[precision].total / PER_PARAMETER[precision].weights


def _check(precision: str, stage: int, ranks: int) -> None:
    if precision not in PER_PARAMETER:
        raise ValueError(f"precision {precision!r} is unknown: choose {', '.join(map(repr, PER_PARAMETER))}")
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} does not exist: choose 0, 1, 2 or 3")
    if ranks < 1:
        raise ValueError(f"{ranks} ranks: a group has at least one")

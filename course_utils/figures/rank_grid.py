"""The answers of the figure ``rank_grid``: what the ranks of a stage hold and send, on each axis of a grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from course_utils.figures.interactive import tabulate
from course_utils.figures.style import PALETTE
from course_utils.hybrid.axes import AXES
from course_utils.hybrid.cost import Cluster, traffic
from course_utils.pipeline.stages import stage_layers
from course_utils.plan.plan import Plan
from course_utils.plan.planner import rank_parameters


def answers(plans: Iterable[Plan], cluster: Cluster, **sizes: Sequence[int]) -> dict[str, Any]:
    """``axes`` with their looks, and ``sent``: the micro-batches of a step, and for each stage which of the ``rows`` is
    its own, [layers, billions of parameters that a rank holds, GB that it sends in a step on each axis].

    Args:
        plans: models and batches, without a grid.
        cluster: where the links' bandwidths are taken from, GB/s.
        sizes: the axes to show, and how many ranks each may have.
    """
    named = {plan.model.name: plan for plan in plans}

    def sent(model: str, **grid: Any) -> dict[str, Any]:
        plan = replace(named[model], **grid)
        stages = [_stage(plan, stage, list(grid)) for stage in range(plan.pipeline)]
        rows = list(dict.fromkeys(stages))  # inner stages are alike
        return {"micro_batches": plan.micro_batches, "stages": [rows.index(stage) for stage in stages], "rows": rows}

    looks = [
        {"name": axis.name, "letter": axis.letter, "colour": PALETTE[axis.colour], "place": axis.place}
        for axis in (AXES[name] for name in sizes)
    ]
    links = {"inside": cluster.inside.bandwidth / 1e9, "between": cluster.between.bandwidth / 1e9}
    return {"axes": looks, **links, "sent": tabulate(sent, model=named, **sizes)}


def _stage(plan: Plan, stage: int, axes: list[str]) -> tuple[float, ...]:
    layers = stage_layers(plan.model.layers, plan.pipeline)[stage]
    ends = {"first": stage == 0, "last": stage == plan.pipeline - 1}
    held, bytes_sent = rank_parameters(plan.model, layers, tensor=plan.tensor, **ends), traffic(plan, stage)
    return layers, held / 1e9, *(bytes_sent.get(axis, 0.0) / 1e9 for axis in axes)

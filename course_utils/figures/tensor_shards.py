"""The answers of the figure ``tensor_shards``: a layer's share on one of the ranks of a tensor-parallel group."""

from __future__ import annotations

from typing import Any, Literal

from course_utils.figures.interactive import tabulate
from course_utils.hybrid.cost import JEAN_ZAY
from course_utils.measure.communication import all_gather_bytes, ring_all_reduce_time
from course_utils.plan.activations import layer_activations
from course_utils.plan.planner import layer_share
from course_utils.plan.transformer import BLOOM, GPT3, GPT3_6B, MT_NLG, forward_flops
from course_utils.tensor.cost import layer_bytes

MODELS = {model.name: model for model in (GPT3_6B, GPT3, BLOOM, MT_NLG)}
Mode = Literal["tensor", "kept", "again"]
MODES = {"tensor": "tensor", "kept": "and sequence, inputs kept", "again": "and sequence, inputs gathered again"}


def answers() -> dict[str, Any]:
    """``layer``: millions of parameters that a rank holds and that there are; GiB that it keeps for backward; GB that
    it sends in a step, for the layer and for all of them; milliseconds of products and of messages on ``cluster``.
    """
    sizes = {name: {"heads": m.heads, "hidden": 4 * m.width, "layers": m.layers} for name, m in MODELS.items()}
    cluster = {"per_node": JEAN_ZAY.per_node}
    cluster |= {name: getattr(JEAN_ZAY, name).bandwidth / 1e9 for name in ("inside", "between")}
    table = tabulate(_layer, model=MODELS, ranks=(1, 2, 4, 8, 16, 32), sequences=(1, 2, 4, 8), mode=MODES)
    return {"models": sizes, "modes": MODES, "cluster": cluster, "layer": table}


def _layer(model: str, ranks: int, sequences: int, mode: Mode) -> dict[str, float]:
    m, sequence = MODELS[model], mode != "tensor"
    size = 2 * sequences * m.length * m.width
    kept = layer_activations(m.length, sequences, m.width, m.heads, tensor=ranks, sequence_parallel=sequence).total
    if mode == "kept":
        kept += 2 * all_gather_bytes(size, ranks)  # the inputs of attention and MLP, but for this rank's tokens
    flops, speed = forward_flops(m, sequences), JEAN_ZAY.busy * JEAN_ZAY.gpu.peak
    sent = layer_bytes(size, ranks, sequence_parallel=sequence, gather_again=mode == "again")
    link = JEAN_ZAY.between if ranks > JEAN_ZAY.per_node else JEAN_ZAY.inside
    return {
        "held": layer_share(m.width, ranks) / 1e6,
        "whole": m.layer_parameters / 1e6,
        "kept": kept / 2**30,
        "sent": sent / 1e9,
        "sent_by_all": sent * m.layers / 1e9,
        "products": 3e3 * (sum(flops.values()) - flops["head"]) / m.layers / ranks / speed,
        "messages": 1e3 * (4 + (mode == "again")) * ring_all_reduce_time(size, ranks, link),
    }

"""What the figure ``planner`` is given: models, GPUs and precisions, each by the numbers that a plan needs of it.

A page cannot hold an answer to every plan, so the script adds up and divides for itself. What a layer consists of it is
told: sums over the parts of :mod:`course_utils.plan.layer`, by what divides them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from course_utils.plan.decoder import Decoder
from course_utils.plan.layer import Layer
from course_utils.plan.machines import GPU, GPUS
from course_utils.plan.memory import AUTOCAST_ADAM, FURTHER_STATES, MODEL_STATES, ModelStates
from course_utils.plan.transformer import DECODERS, RECOMPUTE, layer_flops

STATES = tuple(states for states in (*MODEL_STATES, *FURTHER_STATES) if states != AUTOCAST_ADAM)


def answers(
    models: Sequence[Decoder] = DECODERS, gpus: Sequence[GPU] = GPUS, states: Sequence[ModelStates] = STATES
) -> dict[str, Any]:
    """The choices of the figure's menus."""
    return {
        "models": [described(model) for model in models],
        "gpus": [{"name": gpu.name, "memory": gpu.memory, "peak": gpu.peak} for gpu in gpus],
        "states": [{**asdict(one), "unit": one.unit} for one in states],
        "recompute": list(RECOMPUTE),
    }


def described(model: Decoder) -> dict[str, Any]:
    """A model, by the numbers that the script needs of it: ``rest`` are the parameters outside of layers and tables on
    the first stage, ``norm`` those on the last; ``kinds`` what layers are made of, and how many there are of each."""
    return {
        **{name: getattr(model, name) for name in ("name", "layers", "width", "heads", "vocab", "length", "tied")},
        "parameters": model.parameters,
        "groups": model.heads if model.latent else model.key_value_heads,
        "experts": model.experts.number if model.experts else 0,
        "dense": model.dense_layers,
        "rest": model.embedding_parameters - model.vocab * model.width,
        "norm": model.norm_numbers * model.width,
        "kinds": [_layer(model, model.layer(0)), _layer(model, model.layer())],
    }


def _layer(model: Decoder, layer: Layer) -> dict[str, Any]:
    """``whole`` and ``divided``: parameters outside of the experts and of one expert, ``divided`` as [pieces, count];
    ``kept``: numbers a token, as [origin, region, pieces, count]; ``products``: those of every second product, with 0
    pieces where the norms' region has them; FLOPs a token of products, of these, and for each pair of tokens."""
    whole, divided = [layer.further + model.norm_numbers * sum(layer.norms), 0], [Counter[int](), Counter[int]()]
    for matrix in layer.matrices:
        whole[matrix.expert] += matrix.parameters - matrix.divided
        divided[matrix.expert][matrix.pieces] += matrix.divided
    kept = Counter[tuple[str, str, int]]()
    for numbers, origin, region, pieces in layer.kept:
        kept[origin, region, pieces] += int(numbers)
    products = Counter({model.heads: model.heads * layer.value})  # what attention returns
    for matrix in layer.matrices[::2]:
        products[matrix.pieces if matrix.cut == "columns" else 0] += matrix.active * matrix.outputs
    again = sum(2 * m.active * m.inputs * m.outputs for m in layer.matrices[1::2])
    flops, pairs = layer_flops(model, layer, 1, 0), layer_flops(model, layer, 1, 1)["scores"]
    return {
        "whole": whole,
        "divided": [[[pieces, count] for pieces, count in one.items() if count] for one in divided],
        "kept": [[*key, count] for key, count in kept.items()],
        "products": list(products.items()),
        "flops": {"products": sum(flops.values()), "alternate": again, "pairs": pairs},
    }

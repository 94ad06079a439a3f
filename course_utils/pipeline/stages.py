"""Cut a model into stages: consecutive layers, each stage a module that shares its parameters with the model.

Parameters keep the names they have in the whole model, so that the state dictionaries of all stages together are that
of the model, and a rank can load its part of any checkpoint.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor, nn


def cut(model: nn.Module, stages: int | Sequence[int]) -> list[nn.Module]:
    """Cut a model by its layers; no tensor is copied, and the model stays as it is.

    An ``nn.Sequential`` is cut between its children. A model with an ``embed`` method and an ``encoder`` that holds
    ``layers``, such as ``ViT`` and ``TextModel``, is cut between these: what it holds before the encoder goes to the
    first stage, what it holds behind it to the last.

    Args:
        stages: how many, as even as can be, the first ones larger; or the number of layers of each.

    Returns:
        modules: stage 0 takes the model's input, the last returns its output, and each takes what the one before
        returned. What else a forward takes, such as ``attention_mask``, each of them takes too.

    Raises:
        TypeError: when the model has no row of layers that is known here.
        ValueError: when the layers do not suffice, the numbers do not add up, or two stages would share a parameter.
    """
    layers = _layers(model)
    sizes = _sizes(type(model).__name__, len(layers), stages)
    places = list(accumulate(sizes, initial=0))
    parts = [_part(model, layers, first, end) for first, end in pairwise(places)]
    _check_shared(model, parts)
    return parts


def _layers(model: nn.Module) -> nn.Sequential | nn.ModuleList:
    if isinstance(model, nn.Sequential):
        return model
    layers = getattr(getattr(model, "encoder", None), "layers", None)
    if hasattr(model, "embed") and isinstance(layers, nn.ModuleList):
        return layers
    raise TypeError(
        f"{type(model).__name__} has no row of layers that can be cut: give an nn.Sequential of its layers, a model "
        "with `embed` and `encoder.layers` such as ViT or TextModel, or the list of stages themselves"
    )


def _sizes(name: str, layers: int, stages: int | Sequence[int]) -> list[int]:
    """How many layers each stage gets."""
    sizes = (
        [layers // stages + (stage < layers % stages) for stage in range(stages)]
        if isinstance(stages, int) and stages > 0
        else list(stages if isinstance(stages, Sequence) else ())
    )
    if not sizes:
        raise ValueError(f"a model cannot be cut into {stages!r} stages: give 1 or more")
    if min(sizes) < 1 and isinstance(stages, int):
        raise ValueError(
            f"{name} has {layers} layers, too few for {stages} stages: each stage needs one. Choose at most {layers} "
            "stages (ranks times chunks), or a deeper model"
        )
    if min(sizes) < 1 or sum(sizes) != layers:
        raise ValueError(
            f"stages of {sizes} layers have {sum(sizes)} together, but {name} has {layers}: give one or more to each "
            f"stage, {layers} in all"
        )
    return sizes


def _part(model: nn.Module, layers: nn.Sequential | nn.ModuleList, start: int, end: int) -> nn.Module:
    """The stage of the layers from ``start`` to before ``end``."""
    if layers is model:
        return _with(model, list(model._modules)[start:end])
    first, last = start == 0, end == len(layers)
    children = list(model._modules)
    place = children.index("encoder")
    kept = children[:place] * first + ["encoder"] + children[place + 1 :] * last
    part: Any = _with(model, kept, parameters=first)
    part.encoder = _with(model._modules["encoder"], ["layers"])
    part.encoder.layers = _with(layers, list(layers._modules)[start:end])
    if not last:
        part.forward = functools.partial(_encode, part, first)
    elif not first:  # the model's own forward, which finds its tokens embedded already
        part.embed, part.forward = _embedded, functools.partial(_read, part)
    return part


def _encode(part: Any, first: bool, x: Tensor, attention_mask: Tensor | None = None, **extra: Any) -> Tensor:
    """The forward of all stages but the last: ``[B, N, D]``, in the first from the model's input."""
    x = part.embed(x, **extra) if first else x
    return part.encoder(x, None if attention_mask is None else attention_mask.bool())


def _read(part: Any, x: Tensor, **extra: Any) -> Tensor:
    """The forward of the last stage: ``[B, N, D]`` to what the model returns."""
    forward = type(part).forward
    if "inputs_embeds" in inspect.signature(forward).parameters:
        return forward(part, inputs_embeds=x, **extra)
    return forward(part, x, **extra)


def _embedded(x: Tensor | None = None, *_: Any, inputs_embeds: Tensor | None = None, **__: Any) -> Tensor | None:
    return x if inputs_embeds is None else inputs_embeds


def _with(module: nn.Module | None, children: Collection[str], parameters: bool = True) -> nn.Module:
    """A module of the same class that shares these children, and its own parameters if asked, under their names."""
    assert module is not None
    part = copy.copy(module)
    part._modules = {name: module._modules[name] for name in children}
    part._parameters = dict(module._parameters) if parameters else {}
    part._buffers = dict(module._buffers)
    return part


def _check_shared(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    holder: dict[int, int] = {}
    for stage, part in enumerate(parts):
        for parameter in part.parameters():
            if holder.setdefault(id(parameter), stage) != stage:
                raise ValueError(
                    f"the stages {holder[id(parameter)]} and {stage} share {names[id(parameter)]}: each would train a "
                    "copy of its own. Untie it, or cut so that one stage has both of its users"
                )

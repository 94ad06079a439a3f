"""Split a model into stages: consecutive layers, each stage a module that holds tensors of the model, not copies.

A stage is a list of names: ``["positions", "patch_embedding", "encoder.layers.0"]``. Parameters keep these names: the
state dictionaries of all stages together are that of the model, and a rank can load its part of any checkpoint.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor, nn


class Stage(nn.Module):
    """Some modules of a model, and how they run: the first stage embeds, each runs its layers, the last has the head.

    Args:
        model: an ``nn.Sequential``; or a model with ``embed``, a row of layers (such as ``encoder.layers``) and
            ``forward_head``, and ``context`` if its layers are given something besides the tokens.
        names: of the modules and of the model's own parameters that this stage holds.

    Attributes:
        part: the model without all other modules; what it holds has the names of the whole model.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.part: Any = _holding(model, names)
        self.row = _row(model)
        self.first, self.last = (not name.startswith(f"{self.row}.layers.") for name in (names[0], names[-1]))

    def forward(self, x: Tensor, **extra: Any) -> Tensor:
        """``[B, N, D]`` to ``[B, N, D]``; the first stage takes the model's input, the last returns its output.

        Args:
            extra: for those of the model's methods that have arguments of these names, such as ``attention_mask``.
        """
        part = self.part
        if isinstance(part, nn.Sequential):
            return part(x, **extra)
        context = getattr(part, "context", _nothing)
        _check_names(extra, part.embed, context, part.forward_head)
        if self.first:
            x = part.embed(x, **_asked_for(extra, part.embed))
        x = part.get_submodule(self.row)(x, context(x, **_asked_for(extra, context)))
        return part.forward_head(x, **_asked_for(extra, part.forward_head)) if self.last else x


def _nothing(x: Tensor) -> None:
    """What the layers of a model without ``context`` are given."""


def _asked_for(extra: Mapping[str, Any], method: Callable[..., Any]) -> dict[str, Any]:
    names = inspect.signature(method).parameters
    return {name: value for name, value in extra.items() if name in names}


def _check_names(extra: Mapping[str, Any], *methods: Callable[..., Any]) -> None:
    known = {name: None for method in methods for name in list(inspect.signature(method).parameters)[1:]}
    if strange := [name for name in extra if name not in known]:
        raise TypeError(f"no part of the model takes {strange[0]!r}: give it {' or '.join(known) or 'nothing besides'}")


def split_into_stages(model: nn.Module, stages: int | Sequence[int]) -> list[Stage]:
    """Split a model between its layers; the model stays as it is.

    Args:
        stages: how many, divided as :func:`stage_layers` does; or the number of layers of each.

    Raises:
        TypeError: when the model has no row of layers that is known here.
        ValueError: when the layers do not suffice, the numbers do not add up, a parameter has no stage or two of them.
    """
    before, layers, after = _names(model)
    ends = list(accumulate(_sizes(type(model).__name__, len(layers), stages), initial=0))
    held = [layers[start:end] for start, end in pairwise(ends)]
    held[0] = before + held[0]
    held[-1] = held[-1] + after
    parts = [Stage(model, names) for names in held]
    _check_parameters(model, parts)
    return parts


def stage_layers(layers: int, stages: int) -> list[int]:
    """Layers of each stage, as even as can be: 10 in 4 stages are 2, 3, 3, 2.

    What is left over goes to the stages between the ends, then to the first, then to the last: the first stage holds
    the embedding too, and the last one the head, whose product with a large vocabulary takes as long as some layers.
    """
    each, rest = divmod(layers, stages)
    order = [*range(1, stages - 1), 0, stages - 1]
    return [each + (stage in order[:rest]) for stage in range(stages)]


def _names(model: nn.Module) -> tuple[list[str], list[str], list[str]]:
    """What stands before the layers, the layers, and what stands behind them."""
    children = [name for name, _ in model.named_children()]
    if isinstance(model, nn.Sequential):
        return [], children, []
    row = _row(model)
    if not row or not hasattr(model, "embed") or not hasattr(model, "forward_head"):
        raise TypeError(
            f"{type(model).__name__} has no row of layers to split: give an nn.Sequential of its layers, a model with "
            "`embed`, `encoder.layers` and `forward_head` such as ViT or TextModel, or the list of stages themselves"
        )
    own = [name for name, _ in (*model.named_parameters(recurse=False), *model.named_buffers(recurse=False))]
    at = children.index(row)
    layers = [f"{row}.layers.{name}" for name, _ in model.get_submodule(f"{row}.layers").named_children()]
    return own + children[:at], layers, children[at + 1 :]


def _row(model: nn.Module) -> str:
    """The name of the child that holds the row of layers; empty if there is none."""
    return next(
        (name for name, m in model.named_children() if isinstance(getattr(m, "layers", None), nn.ModuleList)), ""
    )


def _sizes(name: str, layers: int, stages: int | Sequence[int]) -> list[int]:
    """How many layers each stage gets."""
    if isinstance(stages, int) and not 1 <= stages <= layers:
        raise ValueError(
            f"{name} has {layers} layers and cannot be split into {stages} stages: each stage needs one. Choose 1 to "
            f"{layers} stages (ranks times chunks), or a deeper model"
        )
    sizes = stage_layers(layers, stages) if isinstance(stages, int) else list(stages)
    if min(sizes, default=0) < 1 or sum(sizes) != layers:
        raise ValueError(
            f"stages of {sizes} layers have {sum(sizes)} together, but {name} has {layers}: give one or more to each "
            f"stage, {layers} in all"
        )
    return sizes


def _holding(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A module of the same class that shares what is named, and lacks all else."""
    inside: dict[str, list[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        inside.setdefault(head, []).append(rest)
    part = copy.copy(module)
    part._parameters = {name: p for name, p in module._parameters.items() if name in inside}
    part._buffers = {name: b for name, b in module._buffers.items() if name in inside}
    part._modules = {
        name: child if child is None or inside[name] == [""] else _holding(child, inside[name])
        for name, child in module._modules.items()
        if name in inside
    }
    return part


def _check_parameters(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Each parameter must stand in one stage."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    holder: dict[int, int] = {}
    for stage, part in enumerate(parts):
        for parameter in part.parameters():
            if holder.setdefault(id(parameter), stage) != stage:
                raise ValueError(
                    f"the stages {holder[id(parameter)]} and {stage} share {names[id(parameter)]}: each would train a "
                    "copy of its own. Untie it, or split so that one stage has both of its users"
                )
    if lost := [name for key, name in names.items() if key not in holder]:
        raise ValueError(
            f"no stage would hold {lost[0]}, which is no part of a layer: move it out of the row of layers"
        )

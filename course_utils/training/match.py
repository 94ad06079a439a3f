"""Does a checkpoint fit the objects it is to be loaded into? Compared before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def check_model(model: nn.Module, saved: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise ``ValueError`` unless the keys, shapes and dtypes of the model and of the file agree."""
    own = model.state_dict()
    problems = [f"{key} is in the model but not in the file" for key in own if key not in saved]
    problems += [f"{key} is in the file but not in the model" for key in saved if key not in own]
    problems += [
        f"{key} is {_describe(saved[key])} in the file and {_describe(own[key])} in the model"
        for key in own
        if key in saved and _describe(saved[key]) != _describe(own[key])
    ]
    if problems:
        raise ValueError(
            f"{path} does not fit the model: {_first(problems)}. Build the model with the config it was saved with "
            "(load(path).config) and in the same dtype"
        )


def check_parts(path: str | Path, saved: Mapping[str, Any], **given: Any) -> None:
    """Raise ``ValueError`` unless scheduler and scaler are each given exactly when the file holds one."""
    for name, part in given.items():
        enabled = part is not None and (name != "scaler" or part.is_enabled())
        held = saved[name]
        if held is None and enabled:
            raise ValueError(f"{path} holds no {name}, but one was given: leave it out, or start a new run")
        if held is not None and not enabled:
            raise ValueError(
                f"{path} holds a {name} ({held['class']}), but none was given (or a disabled one): the run would "
                f"not go on as it was; pass {name}=..., or leave out the optimizer to load the weights only"
            )
        _check_class(path, name, part if enabled else None, held)
        if name == "scheduler" and enabled:
            bases, groups = held["state"].get("base_lrs", part.base_lrs), part.base_lrs
            if len(bases) != len(groups):
                raise ValueError(
                    f"{path}: its scheduler drives {len(bases)} parameter groups, the one given {len(groups)}"
                )


def check_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any] | None, path: str | Path) -> None:
    """Raise ``ValueError`` unless the saved state belongs to the same parameters in the same groups."""
    if saved is None:
        raise ValueError(f"{path} was saved without an optimizer: leave it out to load the weights only")
    _check_class(path, "optimizer", optimizer, saved)
    groups, own_groups = saved["state"]["param_groups"], optimizer.param_groups
    sizes, own_sizes = [len(g["params"]) for g in groups], [len(g["params"]) for g in own_groups]
    advice = "group the parameters as they were when it was saved"
    if sizes != own_sizes:
        raise ValueError(f"{path}: its optimizer has groups of {sizes} parameters, the one given {own_sizes}: {advice}")
    for group, own in zip(groups, own_groups, strict=True):
        names = zip(group.get("param_names", []), own.get("param_names", []), strict=False)
        if different := [f"{a} in the file stands where the optimizer has {b}" for a, b in names if a != b]:
            raise ValueError(f"{path} does not fit the optimizer: {_first(different)}: {advice}")
        for index, parameter in zip(group["params"], own["params"], strict=True):
            for key, value in saved["state"]["state"].get(index, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(
                        f"{path} does not fit the optimizer: {key} of parameter {index} has shape "
                        f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}: {advice}"
                    )


def _check_class(path: str | Path, name: str, part: Any, held: Mapping[str, Any] | None) -> None:
    if held is not None and part is not None and type(part).__name__ != held["class"]:
        raise ValueError(
            f"{path} holds the state of {held['class']}, but the {name} given is of class {type(part).__name__}: "
            f"use {held['class']}, or leave out the optimizer to load the weights only"
        )


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):  # a module may add something else by get_extra_state
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _first(problems: list[str], limit: int = 3) -> str:
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more

"""Checkpoints: everything a run needs to go on bit for bit, in one file that is either whole or not there.

**Format.** One sealed safetensors file (``course_utils.sealed``). The tensors (weights, Adam's moments, the state of
torch's generators) are named by where they stand: ``model.head.weight``, ``optimizer.state.state.0.exp_avg``.
Everything else is JSON in the header.

**Writing.** To a temporary file in the same folder, flushed to the disk (``fsync``), then renamed over the old one.
POSIX promises that a rename is atomic: a run killed at any moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import sealed

KIND = "checkpoint"
COMPILED = "_orig_mod."  # what torch.compile(model) puts before each name


def save(
    path: str | Path, *, model: nn.Module, step: int = 0, config: Any = None, extra: Any = None, **parts: Any
) -> None:
    """Write one checkpoint; the file that was there before stays whole until the new one is.

    Args:
        path: the file to write, usually ``*.safetensors``; its folder must exist.
        model: its ``state_dict`` is saved, under the names it has without ``torch.compile``.
        step: how many optimizer steps are done; pass it to ``train(start=...)`` when you resume.
        config, extra: anything made of dict, list, tuple, str, int, float, bool, None (and tensors).
        parts: whatever else has a ``state_dict``, by name: ``optimizer``, ``scheduler``, ``scaler``, ``master`` (FP32
            copies of the weights). ``None`` and a disabled scaler count as left out.

    The states of the random generators (Python, NumPy, torch, CUDA where there is one) are always saved.

    Raises:
        TypeError: a value that is none of these, named.
        OSError: the file cannot be written (folder missing or read-only, disk full).
    """
    tree: dict[str, Any] = {"model": {name.replace(COMPILED, ""): value for name, value in model.state_dict().items()}}
    tree |= {name: _state(part) for name, part in parts.items() if _counts(part)}
    tree |= {"rng": rng_state(), "step": step, "config": config, "extra": extra}
    tensors: dict[str, Tensor] = {}
    packed = {key: _take_tensors(value, key, tensors) for key, value in tree.items()}
    sealed.write(path, KIND, packed, tensors)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: what it says at once, and what :meth:`restore` puts back.

    Args:
        parts: the saved state of the model and of each part, by name.
    """

    path: Path
    step: int
    config: Any
    extra: Any
    rng: dict[str, Any]
    parts: dict[str, Any]

    def restore(self, model: nn.Module | None = None, **parts: Any) -> Self:
        """Put back what was saved, in place; everything is compared before anything is changed.

        Without an ``optimizer`` only the weights are restored. With it, this is a resume: each other part must then be
        given exactly when the file holds one, and the random generators are set back too. Resume right before you go
        on: building a model, or the first import of a library such as scikit-learn, draws from these generators.

        Raises:
            ValueError: the file does not fit the objects given.
        """
        given = {name: part for name, part in parts.items() if _counts(part)}
        names: dict[str, str] = {}
        if model is not None:
            names = {name.replace(COMPILED, ""): name for name in model.state_dict()}
            self._check_model({bare: model.state_dict()[name] for bare, name in names.items()})
        if "optimizer" in given:
            for name in {**self.parts, **given}:
                if name != "model":
                    self._check_part(name, given.get(name))
            self._check_optimizer(given["optimizer"])
            if "scheduler" in given:
                self._check_rates(given["scheduler"])
        elif given:
            raise ValueError(f"{' and '.join(given)} given without the optimizer: pass optimizer=... to resume")

        if model is not None:
            model.load_state_dict({names[bare]: value for bare, value in self.parts["model"].items()})
        for name, part in given.items():
            part.load_state_dict(self.parts[name]["state"])
        if given:
            set_rng_state(self.rng)
        return self

    def _check_model(self, own: Mapping[str, Any]) -> None:
        saved = self.parts["model"]
        problems = [f"{key} is in the model but not in the file" for key in own if key not in saved]
        problems += [f"{key} is in the file but not in the model" for key in saved if key not in own]
        problems += [
            f"{key} is {_describe(saved[key])} in the file and {_describe(own[key])} in the model"
            for key in own
            if key in saved and _describe(saved[key]) != _describe(own[key])
        ]
        if problems:
            raise ValueError(
                f"{self.path} does not fit the model: {_first(problems)}. Build the model with the config it was saved "
                "with (load(path).config) and in the same dtype"
            )

    def _check_part(self, name: str, part: Any) -> None:
        """Given exactly when it is held, and of the same class."""
        held = self.parts.get(name)
        weights_only = "or leave out the optimizer to load the weights only"
        if held is None and name == "optimizer":
            raise ValueError(f"{self.path} was saved without an optimizer: leave it out to load the weights only")
        if held is None:
            raise ValueError(f"{self.path} holds no {name}, but one was given: leave it out, or start a new run")
        if part is None:
            raise ValueError(
                f"{self.path} holds a {name} ({held['class']}), but none was given (or a disabled one): the run would "
                f"not go on as it was; pass {name}=..., {weights_only}"
            )
        if type(part).__name__ != held["class"]:
            raise ValueError(
                f"{self.path} holds the state of {held['class']}, but the {name} given is of class "
                f"{type(part).__name__}: use {held['class']}, {weights_only}"
            )

    def _check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """The same parameters in the same groups, as far as their names and shapes tell."""
        state = self.parts["optimizer"]["state"]
        saved, own = state["param_groups"], optimizer.param_groups
        sizes, own_sizes = [len(g["params"]) for g in saved], [len(g["params"]) for g in own]
        problems = [f"its groups have {sizes} parameters, the one given {own_sizes}"] if sizes != own_sizes else []
        for group, mine in zip(saved, own, strict=False):
            names = zip(group.get("param_names", []), mine.get("param_names", []), strict=False)
            problems += [f"{a} in the file stands where the optimizer has {b}" for a, b in names if a != b]
            problems += [
                f"{key} of parameter {index} has shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                for index, parameter in zip(group["params"], mine["params"], strict=False)
                for key, value in state["state"].get(index, {}).items()
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape
            ]
        if problems:
            raise ValueError(
                f"{self.path} does not fit the optimizer: {_first(problems)}: group the parameters as they were when "
                "it was saved"
            )

    def _check_rates(self, scheduler: Any) -> None:
        saved = self.parts["scheduler"]["state"].get("base_lrs", scheduler.base_lrs)
        if saved != scheduler.base_lrs:
            raise ValueError(
                f"{self.path} holds a scheduler of the rates {saved}, and the one given has {scheduler.base_lrs}: give "
                "the optimizer the rates it had. (Older versions wrote 1.0: leave out the optimizer to load the "
                "weights, or finish the run with the version that began it)"
            )


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint, once: the whole file is compared with its checksum here.

    Raises:
        FileNotFoundError, IsADirectoryError: nothing to read there.
        ValueError: the file is truncated, damaged or no checkpoint.
    """
    packed, tensors = sealed.read(path, KIND)
    tree = {key: _put_tensors(value, tensors) for key, value in packed.items()}
    facts = {key: tree.pop(key) for key in ("step", "config", "extra", "rng")}
    return Checkpoint(Path(path), **facts, parts={name: part for name, part in tree.items() if part is not None})


def rng_state() -> dict[str, Any]:
    """The states of the random generators of Python, NumPy and torch (CUDA: one for each device)."""
    generator = np.random.get_state(legacy=False)  # noqa: NPY002 - libraries under us draw from the global generator
    assert isinstance(generator, dict)
    generator["state"] = {"key": generator["state"]["key"].tolist(), "pos": int(generator["state"]["pos"])}
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": generator, "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators back to what :func:`rng_state` returned."""
    random.setstate(state["python"])
    generator = dict(state["numpy"])
    generator["state"] = {**generator["state"], "key": np.array(generator["state"]["key"], np.uint32)}
    np.random.set_state(generator)  # noqa: NPY002 - see rng_state
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count()
    if len(state["cuda"]) == devices:
        torch.cuda.set_rng_state_all(state["cuda"])
    else:
        warnings.warn(
            f"the random state of {len(state['cuda'])} CUDA devices was saved but there are {devices} here: "
            "the run goes on, but not bit for bit",
            stacklevel=2,
        )


def _counts(part: Any) -> bool:
    return part is not None and not (isinstance(part, torch.amp.GradScaler) and not part.is_enabled())


def _state(part: Any) -> dict[str, Any]:
    return {"class": type(part).__name__, "state": part.state_dict()}


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors moved into ``tensors``. JSON has no tuple and no int key: both are spelled out."""
    if isinstance(value, Tensor):
        while name in tensors:
            name += "'"
        # A copy, because safetensors refuses tensors that share memory, as tied weights do.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        if strange := [key for key in value if type(key) not in (str, int)]:
            raise TypeError(f"{name} has the key {strange[0]!r}: the keys in a checkpoint are str or int")
        return {"dict": [[key, _take_tensors(v, f"{name}.{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_take_tensors(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold: give dict, list, tuple, str, int, float, "
        "bool, None or tensors (a dataclass: dataclasses.asdict; a NumPy number: .item(); a path: str)"
    )


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_take_tensors`."""
    if isinstance(value, list):
        return [_put_tensors(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_put_tensors(v, tensors) for v in content)
    return {k: _put_tensors(v, tensors) for k, v in content}


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):  # a module may add something else by get_extra_state
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _first(problems: list[str], limit: int = 3) -> str:
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more


def parameters_named(model: nn.Module, names: Collection[str]) -> nn.ParameterDict:
    """Some parameters of a model as a module of their own, for a checkpoint that leaves out the rest. (A ParameterDict
    allows no dots in its names: slashes stand for them.)"""
    return nn.ParameterDict({name.replace(".", "/"): p for name, p in model.named_parameters() if name in names})

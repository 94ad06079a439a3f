"""Checkpoints: everything a run needs to go on bit for bit, in one file that is either whole or not there.

**Format.** One safetensors file. The tensors (weights, Adam's moments, the state of torch's generators) are its
tensors, named by where they stand (``model.head.weight``, ``optimizer.state.state.0.exp_avg``); everything else is
JSON in its header. Loading reads numbers and text only, so a file from a stranger cannot run code, which a pickle can;
the weights open in any safetensors reader; and a SHA-256 in the header notices flipped bits, which safetensors alone
does not.

**Writing.** To a temporary file in the same folder, flushed to the disk (``fsync``), then renamed over the old one.
POSIX promises that a rename is atomic: a run killed at any moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.sealed import Seal
from course_utils.training.match import check_model, check_optimizer, check_parts
from course_utils.training.rng import rng_state, set_rng_state

SEAL = Seal(
    format="course_utils checkpoint",
    version="1",
    noun="checkpoint",
    again="take an earlier checkpoint, or start again",
    instead_of_pickle="which is not read here because a pickle can run code: load it with "
    "torch.load(..., weights_only=True), then save(path, model=...)",
    instead_of_weights="to read plain weights use safetensors.torch.load_file and model.load_state_dict",
)


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`load` hands back beside the restored objects."""

    step: int
    config: Any
    extra: Any


def save(
    path: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
    step: int = 0,
    config: Any = None,
    extra: Any = None,
) -> None:
    """Write one checkpoint; the file that was there before stays whole until the new one is.

    Args:
        path: the file to write, usually ``*.safetensors``; its folder must exist.
        model, optimizer, scheduler, scaler: their ``state_dict`` is saved. A disabled scaler counts as none.
        step: how many optimizer steps are done; pass it to ``train(start=...)`` when you resume.
        config, extra: anything made of dict, list, tuple, str, int, float, bool, None (and tensors).

    The states of the random generators (Python, NumPy, torch, CUDA where there is one) are always saved.

    Raises:
        TypeError: a value that is none of these, named.
        OSError: the file cannot be written (folder missing or read-only, disk full).
    """
    tree = {
        "model": dict(model.state_dict()),
        "optimizer": _part(optimizer),
        "scheduler": _part(scheduler),
        "scaler": _part(scaler if scaler is not None and scaler.is_enabled() else None),
        "rng": rng_state(),
        "step": step,
        "config": config,
        "extra": extra,
    }
    tensors: dict[str, Tensor] = {}
    SEAL.write(path, {key: _take_tensors(value, key, tensors) for key, value in tree.items()}, tensors)


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Checkpoint:
    """Restore what was saved, in place; everything is compared before anything is changed.

    Without ``optimizer`` only the weights are loaded. With it, this is a resume: the scheduler and the scaler must then
    be given exactly when the file holds one, and the random generators are set back too. Resume right before you go on:
    building a model, or the first import of a library such as scikit-learn, draws from these generators.

    Raises:
        FileNotFoundError, IsADirectoryError: nothing to read there.
        ValueError: the file is truncated, damaged or no checkpoint, or does not fit the objects given.
    """
    tree = _read(Path(path))
    if model is not None:
        check_model(model, tree["model"], path)
    if optimizer is not None:
        check_optimizer(optimizer, tree["optimizer"], path)
        check_parts(path, tree, scheduler=scheduler, scaler=scaler)
    elif scheduler is not None or scaler is not None:
        raise ValueError("a scheduler or a scaler was given without the optimizer: pass optimizer=... to resume")

    if model is not None:
        model.load_state_dict(tree["model"])
    if optimizer is not None:
        optimizer.load_state_dict(tree["optimizer"]["state"])
        if scheduler is not None:
            scheduler.load_state_dict(tree["scheduler"]["state"])
        if scaler is not None and scaler.is_enabled():
            scaler.load_state_dict(tree["scaler"]["state"])
        set_rng_state(tree["rng"])
    return Checkpoint(tree["step"], tree["config"], tree["extra"])


def _part(part: Any) -> dict[str, Any] | None:
    return None if part is None else {"class": type(part).__name__, "state": part.state_dict()}


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors moved into ``tensors``. JSON has no tuple and no int key: both are spelled out."""
    if isinstance(value, Tensor):
        while name in tensors:
            name += "'"
        # A copy, because safetensors refuses tensors that share memory, as tied weights do.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_key(k, name), _take_tensors(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_take_tensors(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold: give dict, list, tuple, str, int, float, "
        "bool, None or tensors (a dataclass: dataclasses.asdict; a NumPy number: .item(); a path: str)"
    )


def _key(key: Any, name: str) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{name} has the key {key!r}: the keys in a checkpoint are str or int")
    return key


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


def _read(path: Path) -> dict[str, Any]:
    tree, tensors = SEAL.read(path)
    return {key: _put_tensors(value, tensors) for key, value in tree.items()}

"""Checkpoints of a sharded run: a folder with one sealed file from each rank, read by any number of ranks at any stage.

A unit's vector is cut at multiples of its length over N. So a rank of another world size finds its part by arithmetic
alone, in one file or in some that follow each other, and nobody ever puts the whole model together.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils import sealed
from course_utils.launch import agree
from course_utils.zero.stages import Zero
from course_utils.zero.units import Unit

Tensors = dict[str, Tensor]
KIND = "shards"  # of a sealed file


def save_shards(folder: str | Path, model: Zero, step: int = 0) -> None:
    """Write each rank's part of the FP32 weights and of the optimizer's state; all ranks call it, between two steps.

    The files go to a folder under another name, which is renamed when all are whole: a run killed at any moment leaves
    a complete checkpoint or none. All ranks must see the same folder. States of random generators are not saved; they
    mean nothing to another number of ranks.

    Raises:
        OSError: (on all ranks) the folder is there already, or a file cannot be written.
    """
    folder, rank = Path(folder), dist.get_rank(model.group)
    partial = folder.with_name(f".{folder.name}.partial")

    def prepare() -> None:
        if folder.exists():
            raise FileExistsError(
                f"{folder} is there already: give each checkpoint its own folder, as f'step-{{step}}'"
            )
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
        partial.mkdir(parents=True)

    agree(prepare if rank == 0 else lambda: None, model.group)
    run = [os.urandom(8).hex()]
    dist.broadcast_object_list(run, group=model.group, group_src=0)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in model.optimizer.param_groups]
    tree = {"run": run[0], "step": step, "layout": _layout(model), "groups": groups}
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in _parts(model).items()}
    agree(lambda: sealed.write(partial / _name(rank, model.ranks), KIND, tree, tensors), model.group)
    agree(lambda: partial.rename(folder) if rank == 0 else None, model.group)


def load_shards(folder: str | Path, model: Zero) -> int:
    """Take weights, buffers and optimizer state from a checkpoint of any stage and number of ranks; all ranks call it.

    Returns:
        the step at which it was saved.

    Raises:
        OSError: no checkpoint is there, or a rank's file is missing; it is named.
        ValueError: a file is damaged or from another run (it is named), or it is of a model with other layers.
            Both on all ranks, also when one alone could not read; the model has not changed.
    """
    tree, loaded = agree(lambda: _read(Path(folder), model), model.group)
    with torch.no_grad():
        for number, unit in enumerate(model.units):
            (model.own_weights(unit) if unit.master is None else unit.master).copy_(loaded[f"{number}.weights"])
        for name, buffer in model.module.named_buffers():
            buffer.copy_(loaded[f"buffer.{name}"])
    state = {
        index: {
            key.partition(".")[2]: t
            for key, t in loaded.items()
            if key.startswith(f"{number}.") and "weights" not in key
        }
        for index, number in enumerate(i for i, unit in enumerate(model.units) if unit.trained)
    }
    known = model.optimizer.state_dict()["param_groups"]
    groups = [{**own, **saved} for own, saved in zip(known, tree["groups"], strict=True)]
    model.optimizer.load_state_dict(
        {"state": {i: entry for i, entry in state.items() if entry}, "param_groups": groups}
    )
    model.send_weights()
    return int(tree["step"])


def _parts(model: Zero) -> Tensors:
    """What this rank saves: its N-th of every unit's weights and moments; and, as rank 0, the buffers."""
    found: Tensors = {}
    for number, unit in enumerate(model.units):
        found[f"{number}.weights"] = _nth(unit, unit.shard if unit.master is None else unit.master)
        state = model.optimizer.state.get(unit.master, {}) if unit.master is not None else {}
        found |= {f"{number}.{key}": _nth(unit, t) for key, t in state.items() if isinstance(t, Tensor)}
    if dist.get_rank(model.group) == 0:
        found |= {f"buffer.{name}": buffer for name, buffer in model.module.named_buffers()}
    return found


def _nth(unit: Unit, tensor: Tensor) -> Tensor:
    """This rank's shard of a whole vector; a shard already, or a counter of steps, is left as it is."""
    return tensor[unit.owned] if tensor.shape == unit.flat.shape else tensor


def _read(folder: Path, model: Zero) -> tuple[Any, Tensors]:
    """Everything this rank needs, from one file after the other; the model is not touched."""
    first = sorted(folder.glob("rank-0-of-*.safetensors"))
    if not first:
        raise FileNotFoundError(
            f"{folder} is no checkpoint of save_shards, or lacks its first file rank-0-of-N.safetensors"
        )
    ranks = int(first[0].stem.rpartition("-")[2])
    loaded: Tensors = {}
    trees: list[Any] = []
    for rank in range(ranks):
        tree, tensors = sealed.read(folder / _name(rank, ranks), KIND)
        trees.append(tree)
        if tree["run"] != trees[0]["run"]:
            raise ValueError(f"{folder / _name(rank, ranks)} is from another run than the first file: take it away")
        _check_layout(folder, tree, model)
        for key, tensor in tensors.items():
            number = key.partition(".")[0]
            if number == "buffer" or not tensor.dim():
                loaded[key] = tensor
            else:
                unit = model.units[int(number)]
                start, stop = _span(unit, key, model)
                own = loaded.setdefault(key, tensor.new_zeros(stop - start))
                begin, end = max(start, rank * len(tensor)), min(stop, (rank + 1) * len(tensor))
                if begin < end:  # the part of this file that belongs to this rank
                    own[begin - start : end - start] = tensor[begin - rank * len(tensor) : end - rank * len(tensor)]
    return trees[0], loaded


def _span(unit: Unit, key: str, model: Zero) -> tuple[int, int]:
    """From where to where in the unit's vector this rank needs a thing: all of it, or its N-th."""
    target = model.own_weights(unit) if unit.master is None else unit.master
    whole = target.numel() == unit.flat.numel()
    return (0, unit.flat.numel()) if whole else (unit.owned.start, unit.owned.stop)


def _layout(model: Zero) -> list[dict[str, Any]]:
    return [{"trained": unit.trained, "shapes": {k: list(s) for k, s in unit.shapes.items()}} for unit in model.units]


def _check_layout(folder: Path, tree: Any, model: Zero) -> None:
    ours, theirs = _layout(model), tree["layout"]
    for own, other in zip(ours, theirs, strict=False):
        if own != other:
            differing = sorted(set(map(str, own["shapes"].items())) ^ set(map(str, other["shapes"].items())))
            what = differing[0] if differing else "which are trained"
            raise ValueError(f"{folder} is of another model; first difference: {what}. Build the model as it was saved")
    if len(ours) != len(theirs):
        raise ValueError(
            f"{folder} was cut into {len(theirs)} units, this model into {len(ours)}: give zero() the same layers"
        )


def _name(rank: int, ranks: int) -> str:
    return f"rank-{rank}-of-{ranks}.safetensors"

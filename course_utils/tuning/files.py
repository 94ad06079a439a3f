"""Save what was tuned, and nothing else, with what is needed to rebuild it; load it into a fresh base, or say why not.

One safetensors file: the adapter's tensors, named by layer and parameter (``encoder.layers.0.attention.q_proj.A``), and
in the header, as JSON, the method with its fields, the names of the layers, the fingerprint of the base, and whatever
the caller adds, such as the names of the labels. A SHA-256 notices flipped bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from course_utils import sealed
from course_utils.tuning.inject import attach, build, check_name, is_merged
from course_utils.tuning.layer import Injection, Method
from course_utils.tuning.names import different, fingerprint, tuned_layers, walk

KIND = "adapter"


class Loaded(NamedTuple):
    """What :func:`load` found beside the tensors: the adapter's name in the model, its method, the caller's extra."""

    name: str
    method: Method | None
    extra: Any


def save(model: nn.Module, path: str | Path, name: str = "default", *, extra: Any = None) -> None:
    """Write one adapter of a model, full copies of heads included.

    Args:
        path: the file to write, usually ``*.safetensors``; its folder must exist. The file that was there before stays
            whole until the new one is.
        name: of the adapter.
        extra: anything JSON can hold, such as the names of the labels.

    Raises:
        ValueError: no such adapter; it is merged; the base is no longer what it was when the adapter was put in.
        OSError: the file cannot be written.
    """
    if is_merged(model):
        raise ValueError("an adapter is merged into the base's weights: unmerge(model) before saving")
    layers = {layer_name: layer for layer_name, layer in tuned_layers(model) if name in layer.adapters}
    if not layers:
        known = sorted({known for _, layer in tuned_layers(model) for known in layer.adapters})
        raise ValueError(f"the model has no adapter {name!r}: it has {', '.join(known) or 'none'}")
    injection = next(iter(layers.values())).injections[name]
    if changes := different(fingerprint(model, leave_out=injection.train), injection.base):
        raise ValueError(
            f"the base has changed since adapter {name!r} was put in ({changes}), so that no fresh base would fit: "
            "give the optimizer only parameters that require gradients, and put layers that keep running statistics "
            "in train= or in evaluation"
        )
    # A copy, because safetensors refuses tensors that share memory.
    tensors = {
        f"{layer_name}.{key}": tensor.detach().to("cpu", copy=True).contiguous()
        for layer_name, layer in layers.items()
        for key, tensor in layer.adapters[name].state_dict().items()
    }
    method = injection.method
    fields = None if method is None else {"class": type(method).__name__, "fields": vars(method)}
    tree = {**vars(injection), "name": name, "method": fields, "extra": extra}
    sealed.write(path, KIND, tree, tensors)


def load(model: nn.Module, path: str | Path, *, name: str | None = None) -> Loaded:
    """Put a saved adapter into a base like the one it was tuned on, and make it active. Everything is compared before
    anything is changed.

    Args:
        model: a bare base, or one that has other adapters already.
        name: to give the adapter; by default the one it was saved under.

    Raises:
        FileNotFoundError, IsADirectoryError: nothing to read there.
        ValueError: the file is empty, truncated, damaged or of another kind; the base differs; tensors are missing,
            left over or of another shape.
    """
    tree, tensors = sealed.read(path, KIND)
    name = tree["name"] if name is None else name
    check_name(model, name)
    injection = Injection(_method(tree["method"], path), tuple(tree["targets"]), tuple(tree["train"]), tree["base"])
    there = {layer_name for layer_name, _ in walk(model)}
    if absent := [layer_name for layer_name in (*injection.targets, *injection.train) if layer_name not in there]:
        raise ValueError(
            f"{path} tunes layers that this model does not have ({len(absent)}): {', '.join(absent[:3])}. "
            "Build the model that it was tuned on"
        )
    if changes := different(fingerprint(model, leave_out=injection.train), injection.base):
        raise ValueError(f"{path} was tuned on another base ({changes}): load the checkpoint that it was tuned on")
    with torch.random.fork_rng():  # the first values are overwritten: they should not move the caller's generator
        adapters = build(model, injection.method, injection.targets, injection.train)
    wanted = {f"{layer}.{key}": tensor for layer, part in adapters.items() for key, tensor in part.state_dict().items()}
    faults = [f"{key} is missing" for key in wanted if key not in tensors]
    faults += [f"{key} is left over" for key in tensors if key not in wanted]
    faults += [
        f"{key} has shape {list(tensors[key].shape)} where {list(wanted[key].shape)} is wanted"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{path} does not fit {_said(injection.method)}: {'; '.join(faults[:3])}{more}")
    for layer_name, adapter in adapters.items():
        adapter.load_state_dict({key: tensors[f"{layer_name}.{key}"] for key in adapter.state_dict()})
    attach(model, adapters, injection, name)
    return Loaded(name, injection.method, tree["extra"])


def _method(saved: dict[str, Any] | None, path: str | Path) -> Method | None:
    """The method from its class's name and its fields."""
    if saved is None:
        return None
    known = {kind.__name__: kind for kind in _below(Method)}
    if (kind := known.get(saved["class"])) is None:
        raise ValueError(
            f"{path} was tuned with {saved['class']}, which is not known here (known: {', '.join(sorted(known))}): "
            "import the module that defines it"
        )
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in saved["fields"].items()})
    except TypeError as error:
        raise ValueError(f"{path} holds fields that {saved['class']} does not have ({error}): update it") from error


def _below(kind: type[Method]) -> Iterator[type[Method]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def _said(method: Method | None) -> str:
    return "a trained copy" if method is None else repr(method)

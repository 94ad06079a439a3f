"""Wrap layers of a frozen model, choose between several adapters, merge them, take them out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from course_utils.tuning.layer import Adapter, FullCopy, Injection, Method, TunedLayer
from course_utils.tuning.names import Pattern, fingerprint, inside, owner_of, select, tuned_layers, walk


def inject(
    model: nn.Module,
    method: Method | None,
    targets: Sequence[Pattern] | Pattern = (),
    *,
    train: Sequence[Pattern] | Pattern = (),
    name: str = "default",
) -> list[str]:
    """Freeze a model, wrap some of its layers as ``method`` says, and make the new adapter the active one.

    Example::

        inject(model, LoRA(rank=8, alpha=16), ["q_proj", "v_proj"], train=["head"])

    Args:
        model: changed in place. Only the new adapter's parameters require gradients afterwards.
        method: None to train nothing but ``train``.
        targets: names of layers: globs, which may leave out the beginning (``"q_proj"``, ``"layers.0.*"``), or compiled
            regular expressions for the whole name. Matches that the method cannot wrap are passed over.
        train: names of modules to train in full, such as a new head; nothing in them is a target.
        name: of the adapter; a model can have several (see :func:`set_adapter`).

    Returns:
        the names of the layers tuned, as in the bare model.

    Raises:
        ValueError: a pattern that fits nothing (names like it are listed), or no layer of the right kind; a name that
            is taken; layers that their owner does not call.
    """
    copied = select(model, train, (nn.Module,), "train")
    copied = tuple(layer_name for layer_name in copied if not inside(layer_name.rpartition(".")[0], copied))
    tuned = () if method is None else select(model, targets, method.kinds, "targets")
    tuned = tuple(layer_name for layer_name in tuned if not inside(layer_name, copied))
    if not tuned and (method is not None or not copied):
        raise ValueError("no layer is left to tune: name some in targets that are not inside train")
    check_name(model, name)
    injection = Injection(method, tuned, copied, fingerprint(model, leave_out=copied))
    attach(model, build(model, method, tuned, copied), injection, name)
    return [*tuned, *copied]


def build(model: nn.Module, method: Method | None, targets: Sequence[str], train: Sequence[str]) -> dict[str, Adapter]:
    """Fresh adapters by the name of their layer; the model stays as it is."""
    bare = {name: module.base if isinstance(module, TunedLayer) else module for name, module in walk(model)}
    for layer_name in train:
        if any(isinstance(module, TunedLayer) for module in bare[layer_name].modules()):
            raise ValueError(f"{layer_name} holds tuned layers: train it in full, or tune layers in it, not both")
    for layer_name in (*targets, *train):
        # MultiheadAttention hands its weights to a function; TransformerEncoderLayer does so in evaluation.
        owner = bare.get(layer_name.rpartition(".")[0], model)
        if isinstance(owner, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            raise ValueError(
                f"{layer_name} belongs to a {type(owner).__name__}, which reads the weights of its layers without "
                "calling them, so that an adapter would be skipped: use a model that calls its layers, such as "
                "course_utils.models.Encoder"
            )
    adapters = method.adapters({layer_name: bare[layer_name] for layer_name in targets}) if method else {}
    return adapters | {layer_name: FullCopy(bare[layer_name]) for layer_name in train}


def attach(model: nn.Module, adapters: dict[str, Adapter], injection: Injection, name: str) -> None:
    """Wrap the layers in their adapters, freeze everything else, and make the adapters active."""
    for layer_name, adapter in adapters.items():
        owner, leaf = owner_of(model, layer_name)
        layer = getattr(owner, leaf)
        if not isinstance(layer, TunedLayer):
            layer = TunedLayer(layer)
            setattr(owner, leaf, layer)
        layer.adapters[name] = adapter.train(layer.training)
        layer.injections[name] = injection
    set_adapter(model, name)


def check_name(model: nn.Module, name: str) -> None:
    """Raise ``ValueError`` if no adapter of this name can be added now."""
    _refuse_merged(model)
    if not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"an adapter cannot be called {name!r}: choose a plain word, without a dot")
    if any(name in layer.adapters for _, layer in tuned_layers(model)):
        raise ValueError(f"the model has an adapter {name!r} already: choose another name, or unload(model) first")


def set_adapter(model: nn.Module, active: str | Sequence[str | None] | None) -> None:
    """Make an adapter active, by name; None for the bare base; or a list with one name (or None) for each row of the
    batches to come. What is active trains, nothing else does."""
    _refuse_merged(model)
    active = active if isinstance(active, str | None) else tuple(active)
    wanted = set(active) if isinstance(active, tuple) else {active}
    layers = [layer for _, layer in tuned_layers(model)]
    known = {name for layer in layers for name in layer.adapters}
    for name in wanted - known - {None}:
        raise ValueError(f"the model has no adapter {name!r}: choose among {', '.join(sorted(known)) or 'none at all'}")
    model.requires_grad_(False)
    for layer in layers:
        layer.active = active
        for name, adapter in layer.adapters.items():
            adapter.requires_grad_(name in wanted)


def merge(model: nn.Module) -> None:
    """Write the active adapter into the base's weights, so that it costs no time any more. The original values are kept
    (twice the memory for these layers), because subtracting what was added would leave rounding errors behind.

    Raises:
        ValueError: the adapter cannot be merged (it is nonlinear), a weight is shared with another layer, or stored in
            a form that the update would not survive, such as four bits.
    """
    _refuse_merged(model)
    layers = [(layer_name, layer) for layer_name, layer in tuned_layers(model) if layer.active in tuple(layer.adapters)]
    if not layers:
        raise ValueError("no single adapter is active, and nothing can be merged: set_adapter(model, name) first")
    with torch.no_grad():  # everything is worked out and checked before anything is changed
        new = [layer.adapters[str(layer.active)].merged(layer.base) for _, layer in layers]  # type: ignore[operator]
    users: dict[int, list[str]] = {}
    for parameter_name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(parameter_name)
    for (layer_name, layer), values in zip(layers, new, strict=True):
        state = layer.base.state_dict(keep_vars=True)
        for key in values:
            if key not in state:
                kind = type(layer.base).__name__
                raise ValueError(f"{layer_name} is a {kind} and stores its {key} in another form: keep the adapter")
            if len(shared := users.get(id(state[key]), [])) > 1:
                raise ValueError(
                    f"the {key} of {layer_name} is shared ({', '.join(shared)}): merging would change them all"
                )
    for (_, layer), values in zip(layers, new, strict=True):
        state = layer.base.state_dict()
        layer.originals = {key: state[key].clone() for key in values}
        layer.base.load_state_dict(state | values)


def unmerge(model: nn.Module) -> None:
    """Give the base its own weights back, bit for bit."""
    for _, layer in tuned_layers(model):
        if layer.originals:
            layer.base.load_state_dict(layer.base.state_dict() | layer.originals)
            layer.originals = {}


def fold(model: nn.Module, name: str = "default") -> None:
    """Replace an adapter by what it has learned, without the network that only its training needed, such as the one
    that writes a prompt. The model computes the same; the optimizer of the training is of no use any more.

    Raises:
        ValueError: no such adapter.
    """
    layers = [layer for _, layer in tuned_layers(model) if name in layer.adapters]
    if not layers:
        raise ValueError(f"the model has no adapter {name!r} to fold: inject one first")
    for layer in layers:
        adapter = layer.adapters[name]
        assert isinstance(adapter, Adapter)
        trained = any(parameter.requires_grad for parameter in adapter.parameters())
        with torch.no_grad():
            folded = adapter.eval().folded()  # without dropout
        layer.adapters[name] = folded.train(layer.training).requires_grad_(trained)
    injection = layers[0].injections[name]
    if injection.method is not None:
        injection = replace(injection, method=injection.method.folded())
    for layer in layers:
        layer.injections[name] = injection


def unload(model: nn.Module) -> None:
    """Take all adapters out. What stays is the base as it is now: with its own weights, or with the merged ones after
    :func:`merge`. It stays frozen; ``model.requires_grad_()`` wakes it."""
    for layer_name, layer in reversed(tuned_layers(model)):  # inner ones first
        owner, leaf = owner_of(model, layer_name)
        setattr(owner, leaf, layer.base)


def is_merged(model: nn.Module) -> bool:
    """Whether an adapter stands in the base's weights at the moment."""
    return any(layer.originals for _, layer in tuned_layers(model))


class ParameterCount(NamedTuple):
    """Numbers of parameters: those that train, and all that the model computes with."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        """Trainable ones in percent of all."""
        return 100 * self.trainable / self.total


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count parameters, leaving out adapters that are not active, and layers in whose place a full copy works."""
    idle: set[int] = set()
    for _, layer in tuned_layers(model):
        active = layer.active if isinstance(layer.active, tuple) else (layer.active,)
        for name, adapter in layer.adapters.items():
            if name not in active:
                idle.update(id(parameter) for parameter in adapter.parameters())
            elif isinstance(adapter, FullCopy):
                idle.update(id(parameter) for parameter in layer.base.parameters())
    working = [parameter for parameter in model.parameters() if id(parameter) not in idle]
    return ParameterCount(sum(p.numel() for p in working if p.requires_grad), sum(p.numel() for p in working))


def _refuse_merged(model: nn.Module) -> None:
    if is_merged(model):
        raise ValueError("an adapter is merged into the base's weights: unmerge(model) first")

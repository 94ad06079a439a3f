"""A layer and what wraps it: the three small classes that every method is made of.

A :class:`Method` (LoRA, IA3, ...) says how layers are wrapped. An :class:`Adapter` holds the parameters that train
beside one layer. A :class:`TunedLayer` takes the layer's place in the model, and holds the layer and its adapters. The
model itself needs to know nothing of this: any ``nn.Module`` that *calls* its layers will do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """What a method adds to one layer: its parameters, and what they make of the layer."""

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What the layer ``base`` returns with this adapter, for arguments that the layer alone would take."""
        raise NotImplementedError

    def merged(self, base: nn.Module) -> dict[str, Tensor]:
        """The values of the layer's own parameters that make it compute the same alone."""
        raise ValueError(
            f"a {type(self).__name__} cannot be merged into the weights of a {type(base).__name__}: keep the adapter"
        )

    def folded(self) -> Adapter:
        """The adapter without what only its training needed; by default all of it is needed."""
        return self


class Method:
    """How layers are wrapped. A method is a frozen dataclass of numbers, text and tuples, so that it can be saved and
    rebuilt from its fields."""

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)  # of layers that it can wrap

    def adapter(self, base: nn.Module, name: str) -> Adapter:
        """A fresh adapter for the layer ``base``, which is called ``name`` in the model."""
        raise NotImplementedError

    def adapters(self, bases: Mapping[str, nn.Module]) -> dict[str, Adapter]:
        """Fresh adapters for all layers, by name; a method whose layers share parameters makes them together."""
        return {name: self.adapter(base, name) for name, base in bases.items()}

    def folded(self) -> Method:
        """The method of which the folded adapters are (see :meth:`Adapter.folded`)."""
        return self


class FullCopy(Adapter):
    """A trained copy in the layer's place: for a new head, or norms, that train in full. The layer stays as it was, so
    that each of several adapters has a head of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.copy = copy.deepcopy(base).requires_grad_()

    def forward(self, base: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.copy(*args, **kwargs)

    def merged(self, base: nn.Module) -> dict[str, Tensor]:
        return dict(self.copy.state_dict())


@dataclass(frozen=True)
class Injection:
    """What one call of ``inject`` did: enough to do it again on another copy of the base."""

    method: Method | None
    targets: tuple[str, ...]  # names of layers in the bare model
    train: tuple[str, ...]
    base: dict[str, str]  # see fingerprint()


class TunedLayer(nn.Module):
    """A frozen layer of the model and its adapters by name. ``active`` says which of them works: one name for the
    whole batch, a name for each row of the batch, or None for the bare layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.injections: dict[str, Injection] = {}
        self.active: str | tuple[str | None, ...] | None = None
        self.originals: dict[str, Tensor] = {}  # the layer's own values, while an adapter is merged into them
        self.training = base.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.originals:
            if self.training and torch.is_grad_enabled():
                raise RuntimeError(
                    "an adapter is merged into this layer and would not be trained: unmerge(model) first"
                )
            return self.base(*args, **kwargs)
        if isinstance(self.active, tuple):
            return self._row_by_row(self.active, *args, **kwargs)
        return self._with(self.active, *args, **kwargs)

    def _with(self, name: str | None, *args: Any, **kwargs: Any) -> Any:
        if name is None or name not in self.adapters:  # the active adapter may tune other layers alone
            return self.base(*args, **kwargs)
        return self.adapters[name](self.base, *args, **kwargs)

    def _row_by_row(self, active: tuple[str | None, ...], *args: Any, **kwargs: Any) -> Tensor:
        """Rows with the same adapter go through the layer together; each row goes through it once."""
        lengths = [len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if wrong := [length for length in lengths if length != len(active)]:
            raise ValueError(
                f"adapters are set for {len(active)} rows, and this layer was called with {wrong[0]}: set one "
                "adapter for the whole batch, or as many as it has rows"
            )
        parts, rows = [], []
        for name in dict.fromkeys(active):
            index = [i for i, wanted in enumerate(active) if wanted == name]
            some = [value[index] if isinstance(value, Tensor) else value for value in args]
            named = {key: value[index] if isinstance(value, Tensor) else value for key, value in kwargs.items()}
            parts.append(self._with(name, *some, **named))
            rows += index
        return torch.cat(parts)[torch.tensor(rows, device=parts[0].device).argsort()]


def trained_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of what trains beside a frozen weight: FP32 at least, because in 16 bits small updates are lost."""
    return torch.promote_types(weight.dtype, torch.float32)


def check_count(name: str, value: object, such_as: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value!r} is no count: choose a whole number of at least 1, such as {such_as}")


def check_share(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a share that can be dropped."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} {value!r} is no share: choose a number from 0 (off) to below 1")

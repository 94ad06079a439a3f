"""ZeRO's stage 3: each rank keeps a shard of the weights, and unshards a layer for as long as it computes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_leaves

from course_utils.zero.stages import Stage2
from course_utils.zero.units import Unit

Direction = Literal["forward", "backward"]


class Stage3(Stage2):
    """Each rank also keeps only its N-th of the parameters, and all ranks gather a layer's just before it computes.

    Four moments of a layer do everything: before and after its forward, when the gradient of its output comes, and when
    those of its inputs have left. What belongs to no layer stays from the first to the last.

    This is no tensor parallelism: a layer computes with its whole weights, on this rank's own part of the batch.

    Args:
        prefetch: whether the next layer's gather starts while a layer computes.
    """

    stage = 3

    def __init__(self, module: nn.Module, *args: Any, prefetch: bool = True, **kwargs: Any) -> None:
        super().__init__(module, *args, **kwargs)
        self.prefetch = prefetch
        self._computing: dict[nn.Module, set[Direction]] = {layer: set() for layer in (module, *self.layers)}
        self._expected = [layer for layer in self.layers if layer is not module]  # in the next forward
        self._passed: list[nn.Module] = []  # by forward, and not yet by backward
        self._upcoming: nn.Module | None = None  # to be gathered next, when there is room
        for layer in self._expected:
            layer.register_forward_pre_hook(self._before_forward, with_kwargs=True)
            layer.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True)

    def reshard(self, unit: Unit) -> None:
        unit.reshard()

    def unshard(self, unit: Unit) -> None:
        """Start to gather the unit's weights."""
        unit.unshard(self.group)

    def all_gather(self, unit: Unit) -> None:
        """Nothing is sent after the step: each layer gathers its new weights when it needs them."""

    def begin(self, layer: nn.Module, direction: Direction) -> None:
        """Have the layer's weights, and let the next layer's come while it computes."""
        self._computing[layer].add(direction)
        self._start_unshard(layer)
        for unit in self.layers.get(layer, []):
            unit.wait_for_unshard()
        self._upcoming = self._next(layer, direction)
        if not any(self._computing[other] for other in self._computing if other not in (layer, self.module)):
            self._prefetch()  # else when that one has ended: the gradient it sends is what lets this one begin

    def end(self, layer: nn.Module, direction: Direction) -> None:
        """Free the layer's weights, unless the other direction needs them."""
        self._computing[layer].discard(direction)
        if not self._computing[layer]:
            for unit in self.layers.get(layer, []):
                if unit.is_unsharded:
                    self.reshard(unit)
            self._prefetch()

    def _prefetch(self) -> None:
        if self._upcoming is not None:
            self._start_unshard(self._upcoming)
            self._upcoming = None

    def _start_unshard(self, layer: nn.Module) -> None:
        for unit in self.layers.get(layer, []):
            if not unit.is_unsharded:
                self.unshard(unit)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._passed = []
        self._before_forward(self.module, (), {})
        output = None
        try:
            output = super().forward(*args, **kwargs)
            self._expected = list(self._passed)
        finally:
            self._after_forward(self.module, (), {}, output)
            for layer in self._computing:  # also what was gathered for a layer that did not come
                self.end(layer, "forward")
        return output

    def _before_forward(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.begin(layer, "forward")
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if inputs and torch.is_grad_enabled():
            register_multi_grad_hook(inputs, lambda _: self.end(layer, "backward"))

    def _after_forward(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        if outputs:
            register_multi_grad_hook(outputs, lambda _: self._before_backward(layer), mode="any")
        self.end(layer, "forward")

    def _before_backward(self, layer: nn.Module) -> None:
        self._begin_backward()
        self.begin(layer, "backward")

    def _end_backward(self) -> None:
        for layer in self._computing:
            self.end(layer, "backward")
        super()._end_backward()

    def _next(self, layer: nn.Module, direction: Direction) -> nn.Module | None:
        """The layer to prefetch: in forward as in the last one, in backward the one before."""
        if layer is self.module:
            upcoming = self._expected[:1] if direction == "forward" else self._passed[-1:]
        elif direction == "forward" and not self._in_backward:  # else: a checkpoint's forward, within backward
            self._passed.append(layer)
            upcoming = self._expected[len(self._passed) : len(self._passed) + 1]
        elif direction == "backward" and self._passed and self._passed[-1] is layer:
            self._passed.pop()
            upcoming = self._passed[-1:]
        else:
            upcoming = []
        return upcoming[0] if upcoming and self.prefetch else None

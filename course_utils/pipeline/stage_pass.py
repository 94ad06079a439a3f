"""One micro-batch through one stage: its forward, and its backward whole or in two parts.

The backward of a layer makes two products, one for the gradient of its input, one for that of its weights. The stage
before waits for the first alone. Zero-bubble schedules put the second off (Qi et al. 2024, arXiv:2401.10241).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Owned = list[tuple[GradientEdge, list[nn.Parameter]]]  # where outputs are, with the weights that made them
Noted = list[tuple[nn.Module, GradientEdge]]  # each layer that ran, and where in the graph its output is


class StagePass:
    """What a backward needs of a forward. Autograd keeps the activations; with the pass they go.

    The stage's result is not kept: its place in the graph suffices, so its memory is free as soon as it has been sent.
    """

    def __init__(self, x: Tensor, root: GradientEdge | None) -> None:
        self.x, self._root = x, root
        self._layers: Owned = []  # weights that one layer alone reads
        self._shared: list[nn.Parameter] = []  # all other weights
        self._later: list[tuple[GradientEdge, Tensor, list[nn.Parameter]]] = []

    @classmethod
    def forward(
        cls, stage: nn.Module, x: Tensor, compute: Callable[[Tensor], Tensor], *, split: bool = False
    ) -> tuple[StagePass, Tensor]:
        """Run a stage.

        Args:
            stage: the module whose weights will get gradients.
            x: its input; a leaf that requires a gradient if the stage before is to get one.
            compute: from ``x`` to the stage's result, in the last stage the loss.
            split: whether the backward will come in two parts.

        Returns:
            the pass, and the result without its graph.
        """
        with _layers_noted(stage if split else None) as noted:
            result = compute(x)
        step = cls(x, get_gradient_edge(result) if result.requires_grad else None)  # a frozen first stage has none
        if split and step._root is not None:
            step._layers, step._shared = _by_owner(stage, noted, step._root.node)
        return step, result.detach()

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Add to the weights' gradients; return that of the input."""
        if self._root is not None:
            torch.autograd.backward(self._root, gradient)
        return self.x.grad

    def backward_input(self, gradient: Tensor) -> Tensor | None:
        """Return the gradient of the input; note those of the layers' outputs, from which those of the weights follow.

        Weights that no single layer owns are done here already.
        """
        if self._root is None:
            return None
        inputs = [self.x] if self.x.requires_grad else []
        wanted: list[Any] = [*inputs, *self._shared, *(edge for edge, _ in self._layers)]
        found = iter(torch.autograd.grad(self._root, wanted, gradient, retain_graph=True, allow_unused=True))
        of_input = next(found) if inputs else None
        for weight, g in zip(self._shared, found):  # noqa: B905 (those of the layers follow)
            if g is not None:
                weight.grad = g if weight.grad is None else weight.grad + g
        self._later = [
            (edge, g, weights) for (edge, weights), g in zip(self._layers, found, strict=True) if g is not None
        ]
        return of_input

    def backward_weight(self) -> None:
        """Add to the weights' gradients: for each layer, one step of the graph from its output to its weights."""
        for edge, gradient, weights in self._later:
            torch.autograd.backward(edge, gradient, inputs=weights)
        self._later.clear()


@contextmanager
def _layers_noted(stage: nn.Module | None) -> Iterator[Noted]:
    """Note the layers of a stage that run inside, each with its output's place in the graph."""
    noted: Noted = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            noted.append((layer, get_gradient_edge(output)))

    modules = stage.modules() if stage is not None else ()
    owners = [m for m in modules if not any(m.children()) and any(p.requires_grad for p in m.parameters())]
    hooks = [layer.register_forward_hook(note) for layer in owners]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _by_owner(stage: nn.Module, layers: Noted, root: Node) -> tuple[Owned, list[nn.Parameter]]:
    """Weights that one layer alone reads, once; and all others: shared, read outside their layer, or by none."""
    calls = Counter(id(layer) for layer, _ in layers)
    nodes, uses = _graph(root)
    owned: Owned = []
    taken: set[int] = set()
    for layer, edge in layers:
        weights = [p for p in layer.parameters() if p.requires_grad]
        in_graph = edge.node in nodes  # an operation in place can take the output's place
        if in_graph and calls[id(layer)] == 1 and all(uses[id(p)] == 1 for p in weights):
            owned.append((edge, weights))
            taken.update(map(id, weights))
    return owned, [p for p in stage.parameters() if p.requires_grad and id(p) not in taken]


def _graph(root: Node) -> tuple[set[Node], Counter[int]]:
    """All nodes of a graph, and how many times it reads each parameter, by the parameter's id."""
    uses: Counter[int] = Counter()
    seen, left = {root}, [root]
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and hasattr(node, "variable"):
                uses[id(node.variable)] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return seen, uses

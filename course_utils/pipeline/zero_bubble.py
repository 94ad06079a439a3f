"""A stage's backward in two parts: the gradient of its input first, those of its weights later.

The backward of a layer makes two products, one for the gradient of its input, one for that of its weights. The stage
before waits for the first alone. Zero-bubble schedules put the second off (Qi et al. 2024, arXiv:2401.10241).
"""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

from torch import Tensor, autograd, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


class SplitBackward:
    """Notes the layers of a stage that run in its ``with`` block; afterwards it can go backward in two parts.

    ::

        with SplitBackward(stage) as split:
            result = stage(x)
        of_input = split.backward_input(x, get_gradient_edge(result), gradient)
        split.backward_weight()  # any time later
    """

    def __init__(self, stage: nn.Module) -> None:
        self._stage = stage
        self._outputs: list[tuple[nn.Module, GradientEdge]] = []  # each layer that ran, and its output's place
        self._later: list[tuple[GradientEdge, Tensor, list[nn.Parameter]]] = []

    def __enter__(self) -> SplitBackward:
        def note(layer: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                self._outputs.append((layer, get_gradient_edge(output)))

        owners = [m for m in self._stage.modules() if not any(m.children()) and _trained(m)]
        self._hooks = [layer.register_forward_hook(note) for layer in owners]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def backward_input(self, x: Tensor, result: GradientEdge, gradient: Tensor) -> Tensor | None:
        """Return the gradient of the input, and keep those of the layers' outputs, from which those of weights follow.

        Weights that no single layer owns get their gradients here already.

        Args:
            x: the stage's input, a leaf.
            result: the place of the stage's result in the graph.
            gradient: of that result.
        """
        layers, shared = _by_owner(self._stage, self._outputs, result.node)
        inputs = [x] if x.requires_grad else []
        wanted: list[Any] = [*inputs, *shared, *(edge for edge, _ in layers)]
        found = iter(autograd.grad(result, wanted, gradient, retain_graph=True, allow_unused=True))
        of_input = next(found) if inputs else None
        for weight, g in zip(shared, found):  # noqa: B905 (those of the layers follow)
            if g is not None:
                weight.grad = g if weight.grad is None else weight.grad + g
        self._later = [(edge, g, weights) for (edge, weights), g in zip(layers, found, strict=True) if g is not None]
        return of_input

    def backward_weight(self) -> None:
        """Add to the weights' gradients: for each layer, one step of the graph from its output to its weights."""
        for edge, gradient, weights in self._later:
            autograd.backward(edge, gradient, inputs=weights)
        self._later.clear()


def _by_owner(
    stage: nn.Module, outputs: list[tuple[nn.Module, GradientEdge]], root: Node
) -> tuple[list[tuple[GradientEdge, list[nn.Parameter]]], list[nn.Parameter]]:
    """Weights that one layer alone reads, once; and all others: shared, read outside their layer, or by none."""
    calls = Counter(id(layer) for layer, _ in outputs)
    nodes, uses = _graph(root)
    owned = []
    taken: set[int] = set()
    for layer, edge in outputs:
        weights = _trained(layer)
        in_graph = edge.node in nodes  # an operation in place can take the output's place
        if in_graph and calls[id(layer)] == 1 and all(uses[id(p)] == 1 for p in weights):
            owned.append((edge, weights))
            taken.update(map(id, weights))
    return owned, [p for p in _trained(stage) if id(p) not in taken]


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


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]

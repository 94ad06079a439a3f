"""The memory of all tensors that are alive, operation by operation: on a CPU, what a GPU's allocator would report."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveMemory(TorchDispatchMode):
    """Measure the bytes of all tensors through a ``with`` block, whoever holds them.

    A storage counts from the operation that made it until its last tensor is gone. What kernels use for themselves
    while they run is not seen. A storage that is resized without an operation, as FSDP2 does to free gathered weights,
    counts with its new size when an operation returns it again.

    ::

        with LiveMemory(model.parameters()) as live:
            loss = model(x).sum()
            live.mark("forward")
            loss.backward()
        live.peak

    Args:
        already: tensors that exist before the block and are to count.

    Attributes:
        now: bytes alive at this moment.
        peak: the most there have been.
        trace: ``now`` after each operation since which it has changed: what the operation made is there, and what it
            took is not freed yet, so ``max(trace)`` is the peak.
        marks: ``(name, index into trace, bytes)`` of each :meth:`mark`.
    """

    def __init__(self, already: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.trace: list[int] = []
        self.marks: list[tuple[str, int, int]] = []
        self._sizes = WeakIdKeyDictionary()  # storage -> a list of one number, the bytes that it counts with
        for tensor in already:
            self._count(tensor.untyped_storage())
        self.trace.append(self.now)

    def mark(self, name: str) -> None:
        """Give this moment a name."""
        self.trace.append(self.now)
        self.marks.append((name, len(self.trace) - 1, self.now))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        if self.now != self.trace[-1]:
            self.trace.append(self.now)
        return result

    def _count(self, storage: UntypedStorage) -> None:
        if storage not in self._sizes:
            self._sizes[storage] = [0]
            weakref.finalize(storage, self._free, self._sizes[storage]).atexit = False
        size = self._sizes[storage]
        self.now += storage.nbytes() - size[0]
        size[0] = storage.nbytes()  # an operation may have resized it
        self.peak = max(self.peak, self.now)

    def _free(self, size: list[int]) -> None:
        self.now -= size[0]

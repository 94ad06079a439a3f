"""What a rank holds under ZeRO, and what happened when: for tables, figures and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.measure.ledger import Held
from course_utils.zero.units import Unit


class Event(NamedTuple):
    """Something that happened to a unit, at ``time`` (seconds of ``time.perf_counter``), and the bytes held then.

    ``gather``, ``reduce``: a collective starts; ``gathered``, ``reduced``, ``published``: it has ended;
    ``forward``, ``backward``: stage 3 has the weights and computes with them; ``release``: they are gone again;
    ``step``: the optimizer has updated this rank's part.
    """

    kind: str
    unit: str
    time: float
    parameters: int
    gradients: int


class Trace:
    """Adds events to a list, if there is one; for the end of each collective a thread waits, to see the very moment."""

    def __init__(self, events: list[Event] | None, held: Callable[[], Held]) -> None:
        self._events = events
        self._held = held
        self._waiting: list[threading.Thread] = []
        self._last = 0, 0

    def note(self, kind: str, unit: Unit) -> None:
        if self._events is not None:
            held = self._held()
            self._last = held.parameters, held.gradients
            self._events.append(Event(kind, unit.name, time.perf_counter(), *self._last))

    def note_end(self, kind: str, unit: Unit, work: dist.Work | None) -> None:
        if self._events is not None and work is not None:
            thread = threading.Thread(target=self._wait_and_note, args=(kind, unit, work))
            thread.start()
            self._waiting.append(thread)

    def wait(self) -> None:
        """Until the ends of all collectives are noted."""
        while self._waiting:
            self._waiting.pop().join()

    def _wait_and_note(self, kind: str, unit: Unit, work: dist.Work) -> None:
        work.wait()
        assert self._events is not None  # its bytes are the last known: autograd may be changing gradients right now
        self._events.append(Event(kind, unit.name, time.perf_counter(), *self._last))


def count(units: list[Unit], optimizer: torch.optim.Optimizer, offload: bool, on_host: bool) -> Held:
    """Bytes of all storages of one place, each once, under the first thing that it is.

    Master weights that are the weights themselves, as in FP32, therefore count as parameters. Counters of steps, one
    number for each unit, are left out.
    """
    masters = [unit.master for unit in units if unit.master is not None]
    state = optimizer.state.values()
    updating: list[list[Tensor | None]] = [
        [],
        [unit.gradient_shard for unit in units] + [master.grad for master in masters],
        [*masters],
        [value for entry in state for value in entry.values() if isinstance(value, Tensor) and value.dim()],
    ]
    computing: list[list[Tensor | None]] = [
        [t for unit in units for t in (unit.flat, unit.shard)],
        [t for unit in units for t in (unit.gradient, *(p.grad for p in unit.parameters))],
        [],
        [],
    ]
    there = updating if on_host and offload else computing
    if not on_host and not offload:
        there = [a + b for a, b in zip(computing, updating, strict=True)]
    if on_host and not offload:
        there = [[], [], [], []]
    seen: set[int] = set()
    return Held(*(_bytes(tensors, seen) for tensors in there))


def _bytes(tensors: Iterable[Tensor | None], seen: set[int]) -> int:
    """Of the storages behind these tensors that were not seen before."""
    total = 0
    for tensor in tensors:
        if tensor is not None and tensor.untyped_storage()._cdata not in seen:
            seen.add(tensor.untyped_storage()._cdata)
            total += tensor.untyped_storage().nbytes()
    return total

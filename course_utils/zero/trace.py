"""What happens to the units of a ZeRO model, and when: seen from outside, for figures and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import nn, optim

from course_utils.zero.stage_3 import Stage3
from course_utils.zero.stages import Zero
from course_utils.zero.units import Unit


class UnitEvent(NamedTuple):
    """Something that happened to a unit, at ``time`` (seconds of ``time.perf_counter``), and the bytes held then.

    ``all_gather``, ``reduce``: a collective starts; ``all_gathered``, ``reduced``: it has ended; ``forward``,
    ``backward``: stage 3 has the weights and computes with them; ``reshard``: they are freed again; ``step``: the
    optimizer has updated this rank's part.
    """

    kind: str
    unit: str
    time: float
    parameters: int
    gradients: int


class UnitTrace:
    """Notes the events of a model's units from now on. The model's code knows nothing of it: its methods are wrapped.

    For the end of each collective a thread waits, to see the very moment.
    """

    def __init__(self, model: Zero) -> None:
        self._model = model
        self._events: list[UnitEvent] = []
        self._waiting: list[threading.Thread] = []
        self._held = 0, 0
        _wrap(
            model,
            "reduce",
            before=lambda unit: self._note("reduce", unit),
            after=lambda unit: self._note_end("reduced", unit, unit.reducing),
        )
        for unit in model.units:
            self._watch(unit)
        if isinstance(model, Stage3):
            _wrap(model, "begin", after=self._begin)
        model.optimizer.register_step_post_hook(self._step)

    def _watch(self, unit: Unit) -> None:
        _wrap(
            unit,
            "all_gather",
            before=lambda group: self._note("all_gather", unit),
            after=lambda group: self._note_end("all_gathered", unit, unit.gathering),
        )
        _wrap(unit, "reshard", after=lambda: self._note("reshard", unit))

    def events(self) -> list[UnitEvent]:
        """What was noted so far, in order; waits for the collectives that have started."""
        while self._waiting:
            self._waiting.pop().join()
        return sorted(self._events, key=lambda event: event.time)

    def clear(self) -> None:
        """Forget what was noted."""
        self.events()
        self._events.clear()

    def _begin(self, layer: nn.Module, direction: str) -> None:
        for unit in self._model.layers.get(layer, []):
            self._note(direction, unit)

    def _step(self, optimizer: optim.Optimizer, *_: Any) -> None:
        for unit in self._model.trained:
            if unit.master is not None and unit.master.grad is not None:
                self._note("step", unit)

    def _note(self, kind: str, unit: Unit) -> None:
        held = self._model.held()
        self._held = held.parameters, held.gradients
        self._events.append(UnitEvent(kind, unit.name, time.perf_counter(), *self._held))

    def _note_end(self, kind: str, unit: Unit, work: dist.Work | None) -> None:
        if work is not None:
            thread = threading.Thread(target=self._wait_and_note, args=(kind, unit, work))
            thread.start()
            self._waiting.append(thread)

    def _wait_and_note(self, kind: str, unit: Unit, work: dist.Work) -> None:
        work.wait()  # the bytes are the last known: autograd may be changing gradients right now
        self._events.append(UnitEvent(kind, unit.name, time.perf_counter(), *self._held))


def _nothing(*_: Any) -> None:
    pass


def _wrap(
    owner: object, name: str, *, before: Callable[..., None] = _nothing, after: Callable[..., None] = _nothing
) -> None:
    """Let an object's method call these two with its own arguments, when it begins and when it has ended."""
    method = getattr(owner, name)

    def wrapped(*args: Any) -> None:
        before(*args)
        method(*args)
        after(*args)

    setattr(owner, name, wrapped)

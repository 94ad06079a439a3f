"""What every benchmark needs: runs taken in turn, a process of its own per setting, a result that judges."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from tqdm import tqdm

REPETITIONS = 7  # the fewest from which a median is reported

T = TypeVar("T")


class Run(NamedTuple):
    """How long one run took."""

    wall: float  # seconds of the clock on the wall
    cpu: float  # seconds of all threads of this process together: what is left when others keep the machine busy


@dataclass(frozen=True)
class Result:
    """One comparison. Lower is better; ``ok`` says whether ``ours`` is at most ``goal`` times ``reference``.

    Args:
        name: what was measured, such as ``"vit_b16_forward_1_thread"``.
        ours, reference: medians, in ``unit``.
        goal: the largest ratio that is good enough; None when the figures are only reported.
        details: anything else a reader should know, such as which reference was the best.
    """

    name: str
    ours: float
    reference: float
    goal: float | None
    unit: Literal["seconds", "bytes"] = "seconds"
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def ok(self) -> bool:
        return self.goal is None or self.ratio <= self.goal

    def json(self) -> str:
        """The result as one line of JSON."""
        numbers = {"ours": self.ours, "reference": self.reference, "ratio": round(self.ratio, 4), "goal": self.goal}
        return json.dumps({"name": self.name, **numbers, "ok": self.ok, "unit": self.unit, **self.details})

    def __str__(self) -> str:
        verdict = "no goal" if self.goal is None else f"goal {self.goal:.2f}, {'ok' if self.ok else 'missed'}"
        values = f"ours {self.ours:.4g}, reference {self.reference:.4g} {self.unit}"
        return f"{self.name:<32} {values}: ratio {self.ratio:.3f}, {verdict}"


def compare(name: str, runs: Mapping[str, list[Run]], goal: float | None, ours: str = "ours", **details: Any) -> Result:
    """Our median wall time against the best median of all others.

    Medians of processor time and the load of the machine are noted beside it: where ``ratio`` and ``cpu_ratio`` differ
    much, the machine was busy with other things, and the benchmark should be run again.

    Args:
        runs: by contestant, its repetitions.
        ours: which contestant is ours.
        details: passed on into the result.
    """
    medians = {contestant: statistics.median(run.wall for run in own) for contestant, own in runs.items()}
    cpu = {contestant: statistics.median(run.cpu for run in own) for contestant, own in runs.items()}
    others = [contestant for contestant in runs if contestant != ours]
    best = min(others, key=medians.__getitem__)
    facts = {
        "best_reference": best,
        "medians": {contestant: round(median, 6) for contestant, median in medians.items()},
        "cpu_ratio": round(cpu[ours] / min(cpu[other] for other in others), 4),
        "load": round(os.getloadavg()[0], 1),  # processes that want a core, a minute's average
        "repetitions": min(len(own) for own in runs.values()),
    }
    return Result(name, medians[ours], medians[best], goal, details={**facts, **details})


def interleave(
    contestants: Mapping[str, Callable[[], object]], repetitions: int, *, warm_ups: int = 1, title: str = ""
) -> dict[str, list[Run]]:
    """Time each contestant's runs, taken in turn so that a busy moment of the machine meets all alike.

    Each round begins with another contestant. Progress goes to standard error.
    """
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in tqdm(range(warm_ups + repetitions), desc=title, unit="round", leave=False):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            contestants[name]()
            if turn >= warm_ups:
                runs[name].append(Run(time.perf_counter() - wall, time.process_time() - cpu))
    return runs


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` in a fresh process, which ends with it: its threads and memory are its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()

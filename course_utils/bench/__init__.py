"""The one door to all benchmarks: ``python -m course_utils.bench NAME [--json]``.

A benchmark is a module with a first docstring line that says what it compares and a function
``run(repetitions: int) -> Iterator[Result]``; it is entered in :data:`BENCHMARKS`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

BENCHMARKS = (
    "adapter",
    "allreduce",
    "ddp",
    "lora",
    "pipeline",
    "prefix",
    "tensor",
    "vit",
    "vit_small",
    "zero",
    "zero_deepspeed",
)


def find(name: str) -> ModuleType:
    """The module of a benchmark; ValueError, with the names there are, for an unknown one."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return importlib.import_module(f"course_utils.bench.{name}")

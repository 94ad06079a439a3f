"""The one door to all benchmarks: ``python -m course_utils.bench NAME [--json]``.

A benchmark is a module with a first docstring line that says what it compares and a function
``run(repetitions: int) -> Iterator[Result]``; it is entered in :data:`BENCHMARKS`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

BENCHMARKS = {
    "adapter": "course_utils.bench.adapter",
    "allreduce": "course_utils.bench.allreduce",
    "ddp": "course_utils.bench.ddp",
    "lora": "course_utils.bench.lora",
    "pipeline": "course_utils.bench.pipeline",
    "prefix": "course_utils.bench.prefix",
    "tensor": "course_utils.bench.tensor",
    "vit": "course_utils.bench.vit",
    "vit_small": "course_utils.bench.vit_small",
    "zero": "course_utils.bench.zero",
    "zero_deepspeed": "course_utils.bench.zero_deepspeed",
}


def find(name: str) -> ModuleType:
    """The module of a benchmark; ValueError, with the names there are, for an unknown one."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return importlib.import_module(BENCHMARKS[name])

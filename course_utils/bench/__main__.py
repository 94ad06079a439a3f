"""``python -m course_utils.bench NAME [--json]``: run a benchmark; the exit code is 1 when it misses a goal.

A benchmark is a module with a first docstring line that says what it compares and a function
``run(repetitions: int) -> Iterator[Result]``; it is entered in :data:`BENCHMARKS`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from course_utils.bench.runner import REPETITIONS

BENCHMARKS = (
    "adapter",
    "allreduce",
    "ddp",
    "decoder",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit code (0 good, 1 a goal missed, 2 not understood)."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.bench", description="Compare two ways to do the same."
    )
    parser.add_argument("name", nargs="?", help="which benchmark; --list names them")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a sentence")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and what each compares")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"at least {REPETITIONS}")
    options = parser.parse_args(arguments)
    if options.list:
        for name in BENCHMARKS:
            print(f"{name:<20}{(find(name).__doc__ or '').splitlines()[0]}")
        return 0
    try:
        if options.name is None:
            raise ValueError(f"no benchmark was named: choose one of {', '.join(BENCHMARKS)}")
        if options.repetitions < REPETITIONS:
            raise ValueError(f"{options.repetitions} repetitions make no median: ask for at least {REPETITIONS}")
        benchmark = find(options.name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    good = True
    for result in benchmark.run(options.repetitions):
        print(result.json() if options.json else result, flush=True)
        good &= result.ok
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

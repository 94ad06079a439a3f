"""The first lines of every chapter: what machine this is, whether the chapter can run on it, and a fixed seed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil
import torch

Status = Literal["ok", "warning", "blocked"]
Scale = Literal["embedded", "full"]

MINIMUM_PYTHON = (3, 11)
MINIMUM_TORCH = (2, 9)
MEMORY_NEEDED = 3.0  # GB; no chapter may say more on its card without passing it to setup()


@dataclass(frozen=True)
class Finding:
    """One line of the preflight: what was looked at, how it stands, and what that means."""

    what: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Preflight:
    """What was found before a chapter runs."""

    chapter: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        worst = {f.status for f in self.findings}
        return "blocked" if "blocked" in worst else "warning" if "warning" in worst else "ok"

    def __repr__(self) -> str:
        head = f"{self.chapter}: {self.status}"
        width = max(len(f.what) for f in self.findings)
        return "\n".join([head, *(f"  {f.status:<8}{f.what:<{width}}  {f.detail}" for f in self.findings)])


def setup(chapter: str, *, seed: int = 0, threads: int | None = None, memory_gb: float = MEMORY_NEEDED) -> Preflight:
    """Seed everything, choose the number of threads, and look whether the chapter can run here.

    Args:
        chapter: its name, such as ``"float_formats"``.
        threads: how many cores torch may use; by default OMP_NUM_THREADS if it is set, else as many as this process
            has, two at most, so that times on a large machine stay comparable with those printed in the book.
        memory_gb: what the chapter needs.

    Returns:
        the preflight, which prints itself when it is the last value of a cell.

    Raises:
        RuntimeError: when the chapter cannot run here; the message says why and what to do.
    """
    seed_everything(seed)
    asked = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(2, cores())  # torch has read it
    torch.set_num_threads(threads or asked)
    if not torch.cuda.is_available():  # DeepSpeed, which transformers imports, else says at length that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    preflight = Preflight(chapter, _look(memory_gb))
    if preflight.status == "blocked":
        raise RuntimeError(str(preflight))
    return preflight


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries under us still draw from the global generator
    torch.manual_seed(seed)


def cores() -> int:
    """The number of cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> torch.device:
    """The GPU when there is one, else the CPU. Every chapter runs on either."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _look(memory_gb: float) -> tuple[Finding, ...]:
    free = psutil.virtual_memory().available / 1e9
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.get_device_name(0)} and {cores()} CPU cores"
    else:
        hardware = f"{cores()} CPU cores, no GPU: everything here runs without one"

    return (
        _at_least("python", platform.python_version(), MINIMUM_PYTHON),
        _at_least("torch", torch.__version__, MINIMUM_TORCH),
        Finding("course_utils", "ok", importlib.metadata.version("course-utils")),
        Finding("hardware", "ok", hardware),
        Finding(
            "memory",
            "ok" if free >= memory_gb else "warning",
            f"{free:.1f} GB free, this chapter needs {memory_gb:.1f} GB",
        ),
    )


def _at_least(what: str, version: str, minimum: tuple[int, int]) -> Finding:
    found = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    wanted = ".".join(map(str, minimum))
    return Finding(what, "ok" if found >= minimum else "blocked", f"{version}, needs {wanted} or newer")

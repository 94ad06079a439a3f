"""How the processes of a run are started from the command line, and how all of them stop at the same step."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from course_utils.launch import Process, RankFailed, launch
from course_utils.runtime import cores
from course_utils.training.settings import RunSettings

Config = TypeVar("Config", bound=RunSettings)
WEEK = 7 * 24 * 3600.0
STOP_TIME = 600.0  # seconds for the step under way and the checkpoint, once a signal came; a second one ends the run


@dataclass
class Stop:
    """Whether somebody asked for an end. A signal reaches one process; all of them have to stop at the same step."""

    process: Process
    asked: bool = False

    def everywhere(self) -> bool:
        """Whether any process was asked, as all of them learn it. A collective: to be called by all, in each step."""
        if self.process.world_size == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=self.process.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)


@contextlib.contextmanager
def stop_on_signal(process: Process) -> Iterator[Stop]:
    """Inside, SIGTERM (a cluster's notice before it takes the machine back) and SIGINT (Ctrl-C) only leave a note."""
    stop = Stop(process)

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_line(kind: type[Config], train: Callable[[Config], Any], words: list[str] | None, description: str) -> None:
    """The program of a project: read the settings, start the processes, say in a sentence what went wrong."""
    try:
        config = kind.from_command_line(words, description)
        if (processes := count_processes(config)) > 1:
            backend: Literal["nccl", "gloo"] = "nccl" if torch.cuda.is_available() else "gloo"
            threads = max(1, cores() // processes)
            options: dict[str, Any] = {
                "backend": backend,
                "threads": threads,
                "timeout": WEEK,
                "stop_within": STOP_TIME,
            }
            launch(_with_log, processes, train, config, **options)
        else:
            _with_log(train, config)
    except RankFailed as error:
        sys.exit(f"error: {error.sentence}")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def count_processes(config: RunSettings) -> int:
    """How many processes to start here; 1, this very one, where torchrun or srun has started them already."""
    if "WORLD_SIZE" in os.environ or "SLURM_STEP_ID" in os.environ:
        return 1
    available = torch.cuda.device_count() or min(2, cores())
    return config.processes or max(n for n in range(1, available + 1) if config.batch_size % n == 0)


def _with_log(train: Callable[[Config], Any], config: Config) -> None:
    """What a process of the command line does. Rank 0 alone speaks, also of what all of them read."""
    rank = (
        dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    )
    level = logging.INFO if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(config)

"""What several processes must do as one: count, average, agree on an error, and stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_utils.data import Images, batches
from course_utils.launch import Process
from course_utils.training import Metrics, Precision
from course_utils.training.loop import autocast

T = TypeVar("T")
EVALUATION_BATCH = 250


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Images,
    process: Process,
    *,
    precision: Precision = "fp32",
    size: int | None = None,
    mirror: bool = False,
    batch_size: int = EVALUATION_BATCH,
) -> Metrics:
    """Loss and accuracy over all images, shared out over the processes; the same on each of them.

    Batch b goes whole to process b mod N, and *counts* are added, as integers: nothing is padded or repeated, and every
    batch is computed as a single process would compute it. So the accuracy is the same for any number of processes.
    Some processes may have one batch less, or none; only the sums meet, once, at the end.

    Args:
        model: the bare module, not its DDP wrapper: a wrapper's forward may want the other processes at its side.
        size: pixels the images are enlarged to.
        mirror: judge the mean of what the model says of an image and of its mirror image.
    """
    all_batches = batches(images, batch_size, device=process.device, size=size)
    own = islice(all_batches, process.rank, None, process.world_size)
    counts = torch.zeros(2, dtype=torch.int64, device=process.device)  # right, seen
    loss = torch.zeros((), dtype=torch.float64, device=process.device)
    training = model.training
    model.eval()
    for x, y in own:  # [B, C, H, W], [B]
        with autocast(precision, process.device):
            logits = (model(x) + model(x.flip(-1))) / 2 if mirror else model(x)  # [B, classes]
        loss += F.cross_entropy(logits.float(), y, reduction="sum")
        counts += torch.stack([(logits.argmax(-1) == y).sum(), torch.tensor(len(y), device=process.device)])
    model.train(training)
    if process.world_size > 1:
        dist.all_reduce(counts)
        dist.all_reduce(loss)
    right, seen = counts.tolist()
    return Metrics(loss.item() / seen, right / seen, seen)


def mean_over_processes(values: list[float], process: Process) -> list[float]:
    """Each number's mean over the processes: what one of them sees of a loss is its own images' only."""
    if process.world_size == 1 or not values:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=process.device)
    dist.all_reduce(total)
    return (total / process.world_size).tolist()


def agree(action: Callable[[], T], process: Process) -> T:
    """Do something that can fail on one process alone, such as reading a file; if it does, all raise that error.

    Without this the others would go on to the next collective and wait there until its time is over.
    """
    problem: str | None = None
    try:
        value = action()
    except (ValueError, OSError) as error:
        problem = str(error)
        kind = type(error)
    if process.world_size == 1:
        if problem is not None:
            raise kind(problem)
        return value
    problems: list[str | None] = [None] * process.world_size
    dist.all_gather_object(problems, problem)
    if failed := [rank for rank, each in enumerate(problems) if each is not None]:
        everywhere = len(failed) == process.world_size
        raise ValueError(problems[0] if everywhere else f"process {failed[0]}: {problems[failed[0]]}")
    return value


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


@contextmanager
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

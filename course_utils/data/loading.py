"""Batches made ahead of time, while the GPU works on the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
AHEAD = 2  # batches that wait: one to be taken at once, one in case the next takes longer


def prefetched(batches: Iterable[T], device: torch.device | str = "cuda") -> Iterator[T]:
    """The same batches in the same order, made in a thread of their own when ``device`` is a GPU.

    One thread is enough for images in memory: cutting and flipping bytes happens in torch, which other Python code need
    not wait for. On a CPU nothing runs ahead, because the cores that would make the next batch are those that train.
    """
    if torch.device(device).type == "cpu":
        yield from batches
    else:
        yield from _in_background(batches)


def _in_background(batches: Iterable[T]) -> Iterator[T]:
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return waiting.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put("batch", batch)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:  # it is raised again where the batches are read
            put("error", error)

    thread = threading.Thread(target=work, name="prefetched", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if isinstance(value, BaseException):
                raise value
            yield value  # type: ignore[misc]
    finally:  # the reader may have stopped early
        stopped.set()
        thread.join()

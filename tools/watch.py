"""The watch on a running chapter: the time and memory of its kernel and of every process below it."""

import os
import threading
import time
from pathlib import Path

import psutil
from nbclient import NotebookClient
from nbformat import NotebookNode

GB = 1e9


class Watch(threading.Thread):
    """Samples the memory of the kernel and of all its descendants; kills them when time or memory is up."""

    def __init__(self, client: NotebookClient, seconds: float, memory: float) -> None:
        super().__init__(daemon=True)
        self.client, self.budget, self.memory = client, seconds, memory
        self.seconds, self.peak_bytes = 0.0, 0
        self.cell: int | None = None  # the one that runs, or ran last
        self.stopped = ""
        self.over = threading.Event()
        self.began: float | None = None  # when the kernel was ready: a slow start is not the chapter's
        client.on_notebook_start = self._notebook_started
        client.on_cell_start = self._cell_started

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._elapsed()
        self.over.set()
        self.join()

    def _notebook_started(self, notebook: NotebookNode) -> None:
        self.began = time.monotonic()

    def _elapsed(self) -> float:
        return 0.0 if self.began is None else time.monotonic() - self.began

    def _cell_started(self, cell: NotebookNode, cell_index: int) -> None:
        self.cell = cell_index

    def run(self) -> None:
        while not self.over.wait(0.2):
            tree = self._tree()
            used = sum(map(memory, tree))
            self.peak_bytes = max(self.peak_bytes, used)
            if self._elapsed() > self.budget and not self.stopped:
                self.stopped = f"stopped: it passed its budget of {self.budget:g} s"
            elif used > self.memory and not self.stopped:
                self.stopped = f"stopped: it used {used / GB:.1f} GB, and {self.memory / GB:g} GB is the limit"
            if self.stopped:
                for process in tree:
                    _kill(process)

    def _tree(self) -> list[psutil.Process]:
        pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
        try:
            kernel = psutil.Process(pid) if pid else None
            return [kernel, *kernel.children(recursive=True)] if kernel else []
        except psutil.Error:
            return []


def memory(process: psutil.Process) -> int:
    """Bytes this process holds. Linux tells the proportional share of shared pages (ranks share torch's libraries)."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.Error:
        return 0


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def end_leftovers(mark: str, grace: float = 2.0) -> list[str]:
    """Name and end the processes that outlived the kernel. `mark` is the value of COURSE_RUN they inherited.

    Helpers of the standard library (multiprocessing's resource tracker) end by themselves: they get `grace` seconds.
    """
    deadline = time.monotonic() + grace
    while (
        left := [process for process in psutil.process_iter() if _marked(process, mark)]
    ) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = []
    for process in left:
        try:
            names.append(" ".join(Path(word).name if os.sep in word else word for word in process.cmdline())[:100])
        except psutil.Error:
            continue
        _kill(process)
    return names


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("COURSE_RUN") == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False

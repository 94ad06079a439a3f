"""Run a function as N processes of one group, from a notebook, a test or a script, and bring back what each returns.

Each rank is forked from a server process that has already imported torch and done nothing else with it, so that a rank
starts in hundredths of a second. The caller holds the store at which ranks meet (no port is guessed), reads what they
print, and watches over them: whatever happens to a rank or to the caller, no process is left.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from numbers import Integral, Real
from types import FrameType
from typing import Any, Literal

import torch.distributed as dist

from course_utils.launch import worker
from course_utils.launch.failures import RankFailed, rank_failed, rank_timeout
from course_utils.launch.pickling import pickle_call
from course_utils.launch.worker_process import WorkerProcess, read_all

# Imported once, in the server that ranks are forked from. torch._dynamo: DDP's first backward asks for it, 4 s a rank.
PRELOAD: tuple[str, ...] = (
    "course_utils.launch.worker",
    "torch.nn.parallel",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed.algorithms.ddp_comm_hooks.default_hooks",
)
MAX_RANKS = 64  # on one machine; larger worlds are for torchrun
START_UP = 120.0  # seconds for importing and meeting, before the run's own time begins
ECHO_TIME = 5.0  # seconds to wait for the cause when all that was heard are echoes of it
GRACE = 0.5  # seconds in which other ranks may report too, once the cause is known
EXIT_TIME = 5.0  # seconds to leave in order
Method = Literal["forkserver", "spawn"]


def launch(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 120.0,
    threads: int = 1,
    seed: int = 0,
    backend: Literal["gloo", "nccl"] = "gloo",
    show: bool = True,
    start_method: Method | None = None,
    stop_within: float | None = None,
    **kwargs: Any,
) -> list[Any]:
    """Run ``fn(*args, **kwargs)`` on ``world_size`` processes that form one group; return their values in rank order.

    ``fn`` may be defined anywhere, in a notebook's cell too; arguments and values are copied. Inside it
    ``torch.distributed`` is initialised, and all ranks have the same seed. The same function runs on a cluster under
    ``with distributed_from_environment(): fn(...)``.

    What ranks print is shown as ``[rank 0] ...``: rank 0's lines as they come, those of the others afterwards in rank
    order, so that the output is the same in every run.

    Args:
        timeout: seconds that the run may take, counted from when all ranks are ready.
        threads: of torch, in each rank.
        backend: ``"gloo"`` moves tensors of the CPU, also on a machine with GPUs; ``"nccl"`` those of the GPU, one for
            each rank, which ``fn`` has to put them on.
        show: whether prints are shown at all.
        start_method: ``"forkserver"``, or ``"spawn"``, which imports torch anew in each rank and takes seconds for it.
            By default forkserver on Linux; spawn on macOS, whose system libraries do not survive a fork.
        stop_within: for a function that handles SIGINT and SIGTERM itself: a signal that reaches the caller is passed
            on to the ranks, and they get so many seconds to return; a second signal ends them. By default they are
            killed at the first.

    Raises:
        RankFailed: when a rank raises or dies: its number and its traceback.
        RankTimeout: when the time is over: which rank holds up the others, and its stack.
        TypeError, ValueError: when the call cannot be made; the message says why.
        OSError: when the system does not give as many processes.
    """
    method = _checked(fn, world_size, start_method)
    if backend not in ("gloo", "nccl"):
        raise ValueError(f"backend is {backend!r}: choose 'gloo' (tensors of the CPU) or 'nccl' (of the GPU)")
    for name, number, least in (("threads", threads, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name} is {number!r}: expected a whole number, {least} or more")
    for name, seconds in (("timeout", timeout), *([] if stop_within is None else [("stop_within", stop_within)])):
        if isinstance(seconds, bool) or not (isinstance(seconds, Real) and 0 < seconds < math.inf):
            raise ValueError(f"{name} is {seconds!r}: expected seconds, more than 0")
    call = pickle_call(fn, args, kwargs)
    # The caller hosts the store at a port that the system chose and that stays taken: no two runs can meet.
    store: dist.TCPStore | None = dist.TCPStore("127.0.0.1", 0, world_size, is_master=True, wait_for_workers=False)
    assert store is not None
    workers = [WorkerProcess(rank, show) for rank in range(world_size)]
    try:
        for each in workers:
            environment = {**os.environ, **_environment(each.rank, world_size, store.port, threads)}
            setup = worker.Setup(environment, backend, threads, seed, START_UP + timeout + 60)
            try:
                each.start(_context(method), setup, call)
            except (OSError, EOFError) as error:
                raise OSError(
                    f"rank {each.rank} of {world_size} could not be started ({error or type(error).__name__}): start "
                    "fewer processes, or let the system give more (memory; open files, see ulimit -n)"
                ) from error
        _watch(workers, timeout, stop_within)
        return [each.result() for each in workers]
    finally:
        _end(workers)
        store = None  # closes the port even where a traceback keeps this frame


def _checked(fn: Callable[..., Any], world_size: int, method: Method | None) -> Method:
    """The start method, after looking whether the call makes sense."""
    if not callable(fn):
        raise TypeError(f"launch got {fn!r:.60} where a function belongs: write launch(f, 4, x), not launch(f(x), 4)")
    if isinstance(world_size, bool) or not isinstance(world_size, int):
        raise TypeError(
            f"world_size is {world_size!r} ({type(world_size).__name__}): expected a whole number such as 4"
        )
    if not 1 <= world_size <= MAX_RANKS:
        raise ValueError(
            f"world_size is {world_size}: launch starts 1 to {MAX_RANKS} processes on this machine; "
            "for more, start the program with torchrun on several machines"
        )
    if "COURSE_LAUNCH_RANK" in os.environ:
        raise RuntimeError(
            f"launch was called inside rank {os.environ['COURSE_LAUNCH_RANK']} of another launch: "
            "call it once, outside; or make subgroups with torch.distributed.new_group"
        )
    method = method or ("forkserver" if sys.platform == "linux" else "spawn")
    if method not in ("forkserver", "spawn") or method not in multiprocessing.get_all_start_methods():
        raise ValueError(f"start method {method!r} does not exist here: choose 'forkserver' (Linux) or 'spawn'")
    return method


def _environment(rank: int, world_size: int, port: int, threads: int) -> dict[str, str]:
    """What torchrun would set, so that code that reads the environment works as well."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: rank 0 need not open one
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": str(threads),
        "COURSE_LAUNCH_RANK": str(rank),
    }


def _context(method: Method) -> multiprocessing.context.ForkServerContext | multiprocessing.context.SpawnContext:
    if method == "spawn":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))  # read once, when the server starts
    return context


def preload(*modules: str) -> None:
    """Import these modules in the server that ranks are forked from, too; one that runs is replaced."""
    global PRELOAD
    if new := [name for name in modules if name not in PRELOAD]:
        PRELOAD = (*PRELOAD, *new)
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # the next launch starts another


def _watch(workers: list[WorkerProcess], timeout: float, stop_within: float | None) -> None:
    """Listen until every rank has returned; raise for the one that fails or holds up the others."""
    begin, seconds, started = time.monotonic(), START_UP, False
    with _signals_passed_on(workers if stop_within is not None else []) as noted:
        while any(each.state != "returned" for each in workers):
            read_all(workers, min(begin + seconds - time.monotonic(), 1.0))  # no longer: a signal moves the end
            if any(each.failed for each in workers):
                raise _cause(workers)
            if not started and all(each.state != "starting" for each in workers):
                begin, seconds, started = time.monotonic(), timeout, True
            if noted and stop_within is not None and noted[0] + stop_within < begin + seconds:
                begin, seconds = noted[0], stop_within
            if time.monotonic() >= begin + seconds and any(each.at_work for each in workers):
                raise _late(workers, f"{seconds:g} s" + " from the signal on" * bool(noted))


@contextlib.contextmanager
def _signals_passed_on(workers: list[WorkerProcess]) -> Iterator[list[float]]:
    """Let SIGINT and SIGTERM go to the workers, if there are any, and take a note of the moment. A second one ends this
    process."""
    noted: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        noted.append(time.monotonic())
        for each in workers:
            each.send_signal(number)

    in_main = threading.current_thread() is threading.main_thread()  # signals reach no other thread
    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM) if workers and in_main}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cause(workers: list[WorkerProcess]) -> RankFailed:
    """Wait a moment for the cause, then say it: who notices first is often not who failed."""
    known = False
    deadline = time.monotonic() + ECHO_TIME
    while time.monotonic() < deadline:
        if not known and any(each.failed and not each.status.echo for each in workers):
            known, deadline = True, time.monotonic() + GRACE
        if not any(each.at_work for each in workers):
            break
        read_all(workers, deadline - time.monotonic())
    while read_all(workers, 0.05):
        pass  # the last prints, and the stack of a crash
    return rank_failed(workers)


def _late(workers: list[WorkerProcess], seconds: str) -> RankFailed:
    """Ask every rank that still runs where it is."""
    late = [each for each in workers if each.at_work]
    for each in late:
        if each.state == "running":  # before that the signal would end it
            each.send_signal(worker.STACK_SIGNAL)
    end = time.monotonic() + 2.0
    while time.monotonic() < end and (read_all(late, 0.2) or not all(each.stacks or not each.at_work for each in late)):
        pass
    return rank_failed(workers) if any(each.failed for each in late) else rank_timeout(workers, late, seconds)


def _end(workers: list[WorkerProcess]) -> None:
    """Release the ranks when all is well, kill them when not; show what they printed; close everything."""
    try:
        if all(each.state == "returned" for each in workers):
            end = time.monotonic() + EXIT_TIME
            for each in workers:
                each.status_pipe.close()
            while (alive := [each for each in workers if each.process.is_alive()]) and time.monotonic() < end:
                wait([each.process.sentinel for each in alive], timeout=end - time.monotonic())
        while read_all(workers, 0):
            pass
    finally:
        for each in workers:
            each.kill()
        for each in workers:
            each.print_lines()
            each.close(EXIT_TIME)

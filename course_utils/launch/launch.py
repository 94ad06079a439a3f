"""Run a function as N processes of one group, from a notebook, a test or a script, and bring back what each returns.

Each rank is forked from a server process that has already imported torch and done nothing else with it, so that a rank
starts in hundredths of a second. The caller holds the store at which ranks meet (no port is guessed), reads what they
print, and watches over them: whatever happens to a rank or to the caller, no process is left.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any, Literal

import torch.distributed as dist

from course_utils.launch import worker
from course_utils.launch.failures import RankFailed, failure, time_out
from course_utils.launch.pickling import pack
from course_utils.launch.worker_process import RankProcess, drain

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

    Raises:
        RankFailed: when a rank raises or dies: its number and its traceback.
        RankTimeout: when the time is over: which rank holds up the others, and its stack.
        TypeError, ValueError: when the call cannot be made; the message says why.
    """
    method = _checked(fn, world_size, start_method)
    call = pack(fn, args, kwargs)
    # The caller hosts the store at a port that the system chose and that stays taken: no two runs can meet.
    store: dist.TCPStore | None = dist.TCPStore("127.0.0.1", 0, world_size, is_master=True, wait_for_workers=False)
    assert store is not None
    ranks = [RankProcess(number, show) for number in range(world_size)]
    try:
        for rank in ranks:
            environment = {**os.environ, **_environment(rank.number, world_size, store.port, threads)}
            settings = worker.Settings(environment, backend, threads, seed, START_UP + timeout + 60)
            rank.start(_context(method), settings, call)
        _watch(ranks, timeout)
        return [rank.result() for rank in ranks]
    finally:
        _end(ranks)
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


def _watch(ranks: list[RankProcess], timeout: float) -> None:
    """Listen until every rank has a value; raise for the one that fails or holds up the others."""
    deadline, started = time.monotonic() + START_UP, False
    while any(rank.state != "returned" for rank in ranks):
        drain(ranks, deadline - time.monotonic())
        if any(rank.state in ("raised", "died") for rank in ranks):
            raise _explained(ranks)
        if not started and all(rank.state != "starting" for rank in ranks):
            deadline, started = time.monotonic() + timeout, True
        if time.monotonic() >= deadline:
            raise _timed_out(ranks, timeout if started else START_UP)


def _explained(ranks: list[RankProcess]) -> RankFailed:
    """Wait a moment for the cause, then say it: who notices first is often not who failed."""
    known = False
    deadline = time.monotonic() + ECHO_TIME
    while time.monotonic() < deadline:
        failed = [rank for rank in ranks if rank.state in ("raised", "died")]
        if not known and any(rank.state == "died" or not rank.reports[-1].echo for rank in failed):
            known, deadline = True, time.monotonic() + GRACE
        if not any(rank.state in ("starting", "running") for rank in ranks):
            break
        drain(ranks, deadline - time.monotonic())
    while drain(ranks, 0.05):
        pass  # the last prints, and the stack of a crash
    return failure(ranks)


def _timed_out(ranks: list[RankProcess], seconds: float) -> RankFailed:
    """Ask every rank that still runs where it is."""
    late = [rank for rank in ranks if rank.state in ("starting", "running")]
    for rank in late:
        if worker.STACK_SIGNAL is not None and rank.state == "running":
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.process.pid, worker.STACK_SIGNAL)
    end = time.monotonic() + 2.0
    while time.monotonic() < end and (drain(late, 0.2) or not all(rank.dumped for rank in late)):
        pass
    return time_out(ranks, seconds)


def _end(ranks: list[RankProcess]) -> None:
    """Release the ranks when all is well, kill them when not; show what they printed; close everything."""
    try:
        if all(rank.state == "returned" for rank in ranks):
            end = time.monotonic() + EXIT_TIME
            for rank in ranks:
                if rank.caller:
                    rank.caller.close()
            while any(rank.process.is_alive() for rank in ranks) and time.monotonic() < end:
                wait(
                    [rank.process.sentinel for rank in ranks if rank.process.is_alive()], timeout=end - time.monotonic()
                )
        while drain(ranks, 0):
            pass
    finally:
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            if rank.process is not None:
                rank.process.join(EXIT_TIME)
            rank.print_lines()
            rank.close()

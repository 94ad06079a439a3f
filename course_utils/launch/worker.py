"""What runs inside each process that :func:`course_utils.launch.launch` starts."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import cloudpickle
import torch
import torch.distributed as dist

from course_utils.launch.environment import distributed_from_environment
from course_utils.launch.pickling import dumps
from course_utils.runtime import seed_everything

STACK_SIGNAL = signal.SIGUSR1  # asks a rank where it is

# What a rank sees when *another* one has gone: never the cause, only its echo.
ECHOES = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL error")

State = Literal["starting", "running", "returned", "raised", "died"]


@dataclass(frozen=True)
class Setup:
    """What every rank is told before it runs."""

    environment: dict[str, str]
    backend: str
    threads: int
    seed: int
    timeout: float


@dataclass(frozen=True)
class Status:
    """How a rank stands. It tells its caller when it is running, and when it has returned or raised.

    Args:
        state: a rank that is starting has said nothing yet; one that died ended without saying why.
        value: pickled, of a rank that has returned.
        traceback: of a rank that raised.
        echo: whether its error is one that a rank meets when another has gone.
        exit_code: of a rank that died; negative numbers are signals.
    """

    state: State
    value: bytes = b""
    traceback: str = ""
    echo: bool = False
    exit_code: int = 0


def main(setup: Setup, call: bytes, status: Connection, output: Connection, stacks: Connection) -> None:
    """Run the call as one rank: join the group, compute, send the value or the error.

    Args:
        status: carries each :class:`Status` out; its end says that all ranks are done and the group may be left.
        output: what the rank prints goes here, byte by byte, so that nothing is lost when the process dies.
        stacks: where the rank stands goes here, on request and when it crashes.
    """
    os.setsid()  # a process group of its own: one signal ends the rank and all that it started
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    faulthandler.enable(stacks.fileno(), all_threads=False)
    faulthandler.register(STACK_SIGNAL, stacks.fileno(), all_threads=False)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    os.environ.clear()
    os.environ.update(setup.environment)
    try:
        torch.set_num_threads(setup.threads)
        seed_everything(setup.seed)
        fn, args, kwargs = cloudpickle.loads(call)
        with distributed_from_environment(backend=setup.backend, timeout=setup.timeout):
            _send(status, Status("running"))
            value = fn(*args, **kwargs)
            _send(status, Status("returned", value=_pickled(value)))
            with contextlib.suppress(EOFError):
                status.recv_bytes()  # keep the group until all ranks are done: to leave it early cuts the others off
    except BaseException as error:  # SystemExit too: the caller waits for a value
        text = "".join(traceback.format_exception(error))
        _send(status, Status("raised", traceback=text, echo=_is_echo(error)))
        os._exit(1)  # leaving in order would wait for peers that never come


def _send(pipe: Connection, status: Status) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send_bytes(dumps(status))


def _pickled(value: Any) -> bytes:
    try:
        return dumps(value)
    except Exception as error:
        raise TypeError(
            f"the returned {type(value).__name__} cannot be sent to the caller ({error}): "
            "return tensors, numbers, strings, or lists, tuples and dictionaries of them"
        ) from None


def _end_with_caller() -> None:
    """Kill this rank and its children as soon as the caller has gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _is_echo(error: BaseException | None) -> bool:
    """Of an error, or of what it was raised from or while handling."""
    if error is None:
        return False
    words = str(error) if isinstance(error, RuntimeError) else ""
    found = isinstance(error, dist.DistError) or any(echo in words for echo in ECHOES)
    return found or _is_echo(error.__cause__ or error.__context__)

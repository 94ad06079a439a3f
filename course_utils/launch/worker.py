"""What runs inside each process that :func:`course_utils.launch.launch` starts."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import cloudpickle
import torch
import torch.distributed as dist

from course_utils.launch.environment import distributed_from_environment
from course_utils.launch.pickling import dumps
from course_utils.runtime import seed_everything

STACK_SIGNAL = getattr(signal, "SIGUSR1", None)  # asks a rank where it is; Windows has none

# What a rank sees when *another* one has gone: never the cause, only its echo.
ECHOES = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL error")


@dataclass(frozen=True)
class Settings:
    """What every rank is told before it runs."""

    environment: dict[str, str]
    backend: str
    threads: int
    seed: int
    timeout: float


@dataclass(frozen=True)
class Report:
    """What a rank says to the caller.

    Args:
        value: pickled, when ``kind`` is ``"value"``.
        text: the traceback, when it is ``"error"``.
        echo: whether the error is one that a rank meets when another has gone.
    """

    kind: Literal["ready", "value", "error"]
    value: bytes = b""
    text: str = ""
    echo: bool = False


def main(settings: Settings, call: bytes, caller: Connection, output: Connection, stacks: Connection) -> None:
    """Run the call as one rank: join the group, compute, report the value or the error.

    Args:
        caller: carries reports out; its end says that all ranks are done and the group may be left.
        output: what the rank prints goes here, byte by byte, so that nothing is lost when the process dies.
        stacks: where the rank stands goes here, on request and when it crashes.
    """
    os.setsid()  # a process group of its own: one signal ends the rank and all that it started
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    faulthandler.enable(stacks.fileno(), all_threads=False)
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, stacks.fileno(), all_threads=False)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    os.environ.clear()
    os.environ.update(settings.environment)
    try:
        torch.set_num_threads(settings.threads)
        seed_everything(settings.seed)
        fn, args, kwargs = cloudpickle.loads(call)
        with distributed_from_environment(backend=settings.backend, timeout=settings.timeout):
            _tell(caller, Report("ready"))
            value = fn(*args, **kwargs)
            _tell(caller, Report("value", value=_packed(value)))
            _wait_for_release(caller)
    except BaseException as error:  # SystemExit too: the caller waits for a value
        text = "".join(traceback.format_exception(error))
        _tell(caller, Report("error", text=text, echo=any(map(_is_echo, _chain(error)))))
        os._exit(1)  # leaving in order would wait for peers that never come


def _tell(caller: Connection, report: Report) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    caller.send_bytes(dumps(report))


def _packed(value: Any) -> bytes:
    try:
        return dumps(value)
    except Exception as error:
        raise TypeError(
            f"the returned {type(value).__name__} cannot be sent to the caller ({error}): "
            "return tensors, numbers, strings, or lists, tuples and dictionaries of them"
        ) from None


def _wait_for_release(caller: Connection) -> None:
    """Keep the group until every rank has its value: one that left early would cut the others off."""
    try:
        caller.recv_bytes()
    except EOFError:
        return


def _end_with_caller() -> None:
    """Kill this rank and its children as soon as the caller has gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_echo(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in ECHOES)
    )

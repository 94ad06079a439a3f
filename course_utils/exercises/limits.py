"""Stop code that does not end, and say where it was."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeVar

Result = TypeVar("Result")


class OutOfTime(BaseException):
    """Raised inside code that took too long. No ``Exception``: ``except Exception`` in that code must not catch it."""


def run_limited(function: Callable[[], Result], seconds: float) -> Result:
    """Run ``function`` for at most ``seconds`` of wall-clock time.

    In the main thread of a Unix process the operating system's alarm interrupts it; elsewhere (Windows, or a kernel
    that runs cells in another thread) it runs in a thread of its own, into which the exception is thrown. Neither
    interrupts a single call into compiled code before that call returns.

    Raises:
        OutOfTime: when the time is up.
    """
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        return _with_alarm(function, seconds)
    return _in_thread(function, seconds)


def _with_alarm(function: Callable[[], Result], seconds: float) -> Result:
    armed = True

    def ring(number: int, frame: FrameType | None) -> None:
        if armed:
            raise OutOfTime

    started = time.monotonic()
    handler_before = signal.signal(signal.SIGALRM, ring)
    # It rings again and again, for a bare `except:` in a loop swallows the first.
    left_before, interval_before = signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        return function()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
        if left_before:  # somebody else's alarm, such as a test runner's, goes on
            left = max(left_before - (time.monotonic() - started), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval_before)


def _in_thread(function: Callable[[], Result], seconds: float) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    for _ in range(10):
        if not thread.is_alive():
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OutOfTime))
        thread.join(0.2)
    if errors:
        raise errors[0]
    if not results:
        raise OutOfTime
    return results[0]


def learner_line(trace: TracebackType | None, function: object) -> str:
    """Where in the learner's own code an exception arose: ``"line 3 of your code: return 1 / n"``, or an empty text."""
    home = getattr(getattr(function, "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(trace)):
        if frame.filename == home or "ipykernel" in frame.filename or frame.filename.startswith("<ipython-input"):
            return (
                f"line {frame.lineno} of your code: {frame.line}" if frame.line else f"line {frame.lineno} of your code"
            )
    return ""

"""Which tests start a process, a kernel or a browser: found by what their functions and fixtures name, not by hand.

`make check` leaves these out. Functions of the tests and of the tools are followed; not those of the package, whose
programs start processes only where they are asked to.
"""

import functools
import inspect
import multiprocessing
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from nbclient import NotebookClient

from course_utils.launch import launch
from tools.contents import ROOT

STARTERS = (launch, subprocess, subprocess.run, subprocess.Popen, multiprocessing, NotebookClient)
FIXTURES = {"browser", "nothing_left"}


def starts_processes(item: pytest.Item) -> bool:
    """True for a test that, by itself or by a fixture, names something that starts a process."""
    if not isinstance(item, pytest.Function):
        return True
    definitions = item._fixtureinfo.name2fixturedefs
    functions = [definition.func for several in definitions.values() for definition in several]
    return bool(FIXTURES & definitions.keys()) or reaches_a_starter([item.function, *functions])


def reaches_a_starter(functions: Iterable[Any]) -> bool:
    """Whether one of the functions names a starter, or a function of tests or tools that reaches one."""
    waiting, seen = list(functions), set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if isinstance(function, functools.partial):
            function = function.func
        if isinstance(function, type):
            waiting += [value for value in vars(function).values() if isinstance(value, FunctionType)]
        if not isinstance(function, FunctionType) or function in seen or not _ours(function):
            continue
        seen.add(function)
        named = list(_named(function))
        if any(value is starter for value in named for starter in STARTERS):
            return True
        waiting += named
    return False


def _named(function: FunctionType) -> Iterator[Any]:
    """The values of all global names in a function's code, and of their attributes where they are our modules."""
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        if isinstance(value, ModuleType) and value.__name__.startswith("tools"):
            yield from (vars(value)[attribute] for attribute in names & vars(value).keys())
    for cell in function.__closure__ or ():
        yield cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _ours(function: FunctionType) -> bool:
    file = Path(function.__code__.co_filename)
    return any(file.is_relative_to(ROOT / folder) for folder in ("tests", "tools"))

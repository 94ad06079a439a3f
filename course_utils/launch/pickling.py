"""Functions on their way to another process: what pickle cannot carry by name, cloudpickle carries by value."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

_REGISTRY = threading.Lock()  # cloudpickle's list of modules to send by value is one for all threads


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Send modules that are of a class of their own by name, like other modules.

        A function that uses `torch` and any name `ops` makes cloudpickle reach for torch.ops; `dist` and `config`, for
        torch.distributed.config.
        """
        if isinstance(obj, ModuleType) and type(obj) is not ModuleType and sys.modules.get(obj.__name__) is obj:
            return importlib.import_module, (obj.__name__,)
        return super().reducer_override(obj)


def dumps(value: Any) -> bytes:
    """Pickle anything that can be copied, functions and classes of a notebook included; tensors travel by value."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def pickle_call(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """A call, ready to be sent to another process.

    Raises:
        TypeError: if it cannot be sent; the message names the variable or argument that cannot.
    """
    with _REGISTRY, _module_by_value(fn):
        try:
            return dumps((fn, tuple(args), dict(kwargs)))
        except Exception as error:
            name = getattr(fn, "__name__", repr(fn))
            what = _first_unpicklable(fn, args, kwargs) or f"of this: {error}"
            raise TypeError(
                f"{name} cannot be sent to other processes because {what}: "
                f"create such things inside {name}, so that each rank has its own"
            ) from None


@contextlib.contextmanager
def _module_by_value(fn: Callable[..., Any]) -> Iterator[None]:
    """Send the module that defines ``fn`` by value, unless it is a library.

    The ranks then need not import a test file, with all that it imports, to find one function in it.
    """
    module = sys.modules.get(getattr(inspect.unwrap(fn), "__module__", None) or "")
    file = getattr(module, "__file__", None)
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    of_a_library = any(Path(file).resolve().is_relative_to(folder) for folder in libraries) if file else True
    by_value_already = {"__main__", *cloudpickle.list_registry_pickle_by_value()}
    if module is None or module.__package__ or of_a_library or module.__name__ in by_value_already:
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _first_unpicklable(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The first thing that a call needs and that cannot be pickled, in words."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    used: dict[str, Any] = {}
    with contextlib.suppress(TypeError):
        names = inspect.getclosurevars(inner)
        used = {f"its variable {name}": value for name, value in {**names.globals, **names.nonlocals}.items()}
    used |= {f"its argument {place + 1}": value for place, value in enumerate(args)}
    used |= {f"its argument {name}": value for name, value in kwargs.items()}
    for name, value in used.items():
        try:
            dumps(value)
        except Exception:
            return f"{name} ({type(value).__module__}.{type(value).__qualname__}) cannot be copied"
    return None

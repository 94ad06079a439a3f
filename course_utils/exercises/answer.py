"""The learner's function as a check sees it: called with care, compared exactly, explained in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from course_utils.exercises.limits import learner_line


class NotOk(Exception):
    """A point is not ok. ``details`` are (label, text) pairs that the learner reads; ``hint`` replaces the point's own.

    ``ends`` says that nothing more can be learned from the points that follow.
    """

    def __init__(self, *details: tuple[str, str], hint: str = "", ends: bool = False) -> None:
        super().__init__(details)
        self.details = details
        self.hint = hint
        self.ends = ends


class Answer:
    """What the learner wrote, wrapped. A call of it must return, must not raise, and must leave its arguments alone.

    Args:
        function: the learner's function or class.
        name: what it is called in messages.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The learner's result.

        Raises:
            NotOk: when the function raised, returned None, or changed one of its arguments.
        """
        given = ("given", self.call(*args, **kwargs))
        named = {**{f"argument {i + 1}": value for i, value in enumerate(args)}, **kwargs}
        before = {name: _contents(value) for name, value in named.items()}
        try:
            result = self.function(*args, **kwargs)
        except NotImplementedError as error:
            raise NotOk(
                ("raised", str(error) or "NotImplementedError"), hint="Nothing is written yet.", ends=True
            ) from None
        except (Exception, SystemExit) as error:
            where = learner_line(error.__traceback__, self.function)
            details = [given, ("raised", f"{type(error).__name__}: {error}")] + ([("where", where)] if where else [])
            raise NotOk(*details) from None
        for name, value in named.items():
            if _contents(value) != before[name]:
                raise NotOk(
                    given,
                    ("changed", name),
                    hint=f"{self.name} must leave its arguments as they were: work on a new array, not in place.",
                )
        if result is None:
            raise NotOk(given, ("got", "None"), hint=f"Does {self.name} end with `return`?")
        return result

    def call(self, *args: Any, **kwargs: Any) -> str:
        """The call as the learner would type it: ``decode(65, 4, 3)``."""
        parts = [brief(value) for value in args] + [f"{name}={brief(value)}" for name, value in kwargs.items()]
        return f"{self.name}({', '.join(parts)})"

    def expect(
        self,
        want: Any,
        *args: Any,
        given: str = "",
        suspects: Mapping[str, Any] | None = None,
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> Any:
        """Call with ``args`` and compare the result with ``want``: kind, shape, dtype, every element.

        The sign of a zero counts; NaN equals NaN.

        Args:
            want: a number, a NumPy array or a torch tensor.
            given: how to write the call, where ``call`` would be unclear.
            suspects: known mistakes: the sentence that explains one -> the value it produces. When that is what came,
                the sentence becomes the hint.
            rtol, atol: tolerances; by default none.

        Returns:
            the learner's result.

        Raises:
            NotOk: at the first difference.
        """
        got = self(*args)
        call = ("given", given or self.call(*args))
        problem = _form(got, want)
        if problem:
            raise NotOk(call, *problem)
        g, w = _flat(got), _flat(want)
        wrong = ~_same(g, w, rtol, atol)
        if not wrong.any():
            return got
        at = int(wrong.argmax())
        place = "" if np.ndim(want) == 0 else f"element {list(map(int, np.unravel_index(at, np.shape(want))))}: "
        hint = ""
        for sentence, value in (suspects or {}).items():
            s = _flat(np.broadcast_to(value, np.shape(want)))
            if _same(g, s, rtol, atol).all():  # it explains the right elements and the wrong ones
                hint = sentence
                break
        raise NotOk(call, ("expected", place + brief(w[at])), ("got", place + brief(g[at])), hint=hint)


def brief(value: Any) -> str:
    """A value in one short line: numbers in full, large arrays by their shape and first elements."""
    if _is_tensor(value):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        if value.size <= 6:
            flat = ", ".join(brief(v) for v in value.reshape(-1))
            return f"array([{flat}])" if value.ndim == 1 else f"array of shape {value.shape}: {flat}"
        start = ", ".join(brief(v) for v in value.reshape(-1)[:4])
        return (
            f"array([{start}, ...]) of {len(value)}"
            if value.ndim == 1
            else f"array of shape {value.shape}: {start}, ..."
        )
    if isinstance(value, np.random.Generator):
        return "rng"
    if isinstance(value, np.generic):
        value = value.item()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _form(got: Any, want: Any) -> tuple[tuple[str, str], ...]:
    """What is wrong with the kind, shape or dtype of ``got``: nothing, or (label, text) pairs."""
    if np.ndim(want) == 0 and not _is_tensor(want):
        try:
            is_number = np.ndim(got) == 0 and not isinstance(got, str) and float(got) is not None
        except (TypeError, ValueError):
            is_number = False
        if not is_number:
            return ("expected", "a number"), ("got", f"{type(got).__name__} {brief(got)}")
    else:
        kind = "torch tensor" if _is_tensor(want) else "NumPy array"
        if _is_tensor(want) != _is_tensor(got) or not hasattr(got, "shape"):
            return ("expected", f"a {kind} of shape {tuple(np.shape(want))}"), ("got", type(got).__name__)
        if tuple(got.shape) != tuple(want.shape):
            return ("expected", f"shape {tuple(want.shape)}"), ("got", f"shape {tuple(got.shape)}")
    if hasattr(want, "dtype") and getattr(got, "dtype", None) != want.dtype:
        return ("expected", f"dtype {want.dtype}"), ("got", f"dtype {getattr(got, 'dtype', type(got).__name__)}")
    return ()


def _same(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """The same number, sign of zero included, or within the tolerance, or both NaN. [n], [n] -> [n] bool."""
    with np.errstate(invalid="ignore", over="ignore"):
        if rtol or atol:
            return np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        return ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))


def _flat(value: Any) -> np.ndarray:
    """Any number, array or tensor -> its elements as float64, [n]."""
    if _is_tensor(value):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64).reshape(-1)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported torch
    return torch is not None and isinstance(value, torch.Tensor)


def _contents(value: Any) -> object:
    """The contents of an argument, to compare before with after; None for what may change, such as an rng."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.tobytes()
    if _is_tensor(value):
        import torch

        return tuple(value.shape), value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(value, list | tuple):
        return [_contents(item) for item in value]
    return repr(value) if isinstance(value, dict | set | str | int | float) else None

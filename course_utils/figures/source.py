"""Show the package's own source in a chapter, so that no code stands twice."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from IPython.display import Code


def source(obj: Any, *, docstring: bool | None = None) -> Code:
    """The source of a module, class or function, highlighted.

    A module is shown whole, as it stands in its file: its docstrings say what the letters of its shapes mean. Of a
    class or function the docstrings are left out, since the chapter says the same.

    Args:
        docstring: keep the docstrings, or leave out those of classes and functions, whatever ``obj`` is. A module's own
            always stays.
    """
    keep = inspect.ismodule(obj) if docstring is None else docstring
    text = textwrap.dedent(inspect.getsource(obj))
    return Code((text if keep else _without_docstrings(text)).strip("\n"), language="python")


def _without_docstrings(text: str) -> str:
    lines = text.splitlines()
    drop: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            not isinstance(node, ast.FunctionDef | ast.ClassDef)
            or ast.get_docstring(node) is None
            or len(node.body) == 1
        ):
            continue
        first = node.body[0]
        end = first.end_lineno or first.lineno
        drop |= set(range(first.lineno, end + 1))
        if end < len(lines) and not lines[end].strip():
            drop.add(end + 1)  # and the empty line below it
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in drop)

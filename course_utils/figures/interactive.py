"""Interactive figures that need no kernel and no widget library: plain HTML and JavaScript in the cell's output.

A figure ``name`` is a file ``js/name.js`` that ends in a function ``mount(root, data)``. What all of them draw with
stands once, in ``js/interactive.js``, and their style in ``js/interactive.css``. The script runs in Jupyter, in Colab
and on the book's static page alike.

No script has a formula of its own: the package works out its answers when the cell runs (:func:`tabulate`, called in
``name.py`` beside this file), and the script looks them up. Where a figure has more choices than a page can carry
answers for, its script has the package's arithmetic a second time, says so in its first lines, and a test compares the
two.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any

from IPython.display import HTML

SHARED = "interactive"  # no figure: what is put before each
LARGEST = 60_000  # bytes of data that a figure may add to its page
DIGITS = 6  # significant, of each number in a table


def interactive(name: str, data: Any = None, *, label: str) -> HTML:
    """The interactive figure ``name``, given ``data`` (anything that JSON can hold).

    Args:
        label: what the figure is for, in a sentence; read aloud to those who do not see it.

    Raises:
        ValueError: when there is no such figure (the message lists those there are), or its data are too many.
    """
    folder = files("course_utils.figures") / "js"
    script = folder / f"{name}.js"
    if name == SHARED or not script.is_file():
        scripts = {p.name.removesuffix(".js") for p in folder.iterdir() if p.name.endswith(".js")}
        known = ", ".join(sorted(scripts - {SHARED}))
        raise ValueError(f"there is no interactive figure {name!r}; there are: {known}")
    payload = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    if len(payload) > LARGEST:
        raise ValueError(
            f"the data of the figure {name!r} are {len(payload):,} bytes, and a page should carry at most {LARGEST:,} "
            "for one: tabulate fewer values"
        )
    ident = f"{name}-{hashlib.sha256(payload.encode()).hexdigest()[:8]}"
    style, shared = ((folder / f"{SHARED}.{kind}").read_text("utf-8") for kind in ("css", "js"))
    code = f"{shared}\n{script.read_text('utf-8')}"
    return _Interactive(
        f'<div class="course-interactive" id="{ident}" role="group" '
        f'aria-label="{html.escape(label, quote=True)}"></div>\n'
        f"<style>{style}</style>\n"
        f"<script>(() => {{\n{code}\nmount(document.getElementById({json.dumps(ident)}), {payload});\n}})();</script>",
        label,
    )


def tabulate(compute: Callable[..., Mapping[str, Any]], /, **arguments: Iterable[Any]) -> dict[str, Any]:
    """What ``compute`` answers to every combination of ``arguments``; ``lookUp(table, chosen)`` finds one in the page.

    Args:
        compute: called with one value of each argument, by name; returns numbers, words and lists of them by name.
        arguments: the values of each, as the figure's controls offer them.

    Returns:
        ``arguments``; ``fields``, the names in an answer; and ``entries``, lists within lists in the order of the
        arguments. An entry is the list of an answer's values, numbers rounded to 6 digits, or, where ``compute`` raises
        ``ValueError``, its message.
    """
    values = {name: list(each) for name, each in arguments.items()}
    fields: list[str] = []

    def entries(chosen: dict[str, Any]) -> Any:
        if len(chosen) < len(values):
            name = list(values)[len(chosen)]
            return [entries({**chosen, name: value}) for value in values[name]]
        try:
            answer = compute(**chosen)
        except ValueError as error:
            return str(error)
        fields[:] = answer
        return _rounded(list(answer.values()))

    table = entries({})
    return {"arguments": values, "fields": fields, "entries": table}


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
        return int(value) if value.is_integer() else value
    return value


class _Interactive(HTML):
    """HTML whose plain-text form is its label, for terminals and for tests."""

    def __init__(self, data: str, label: str) -> None:
        super().__init__(data)
        self._label = label

    def __repr__(self) -> str:
        return f"Interactive figure: {self._label}"

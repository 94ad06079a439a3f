"""Interactive figures that need no kernel and no widget library: plain HTML and JavaScript in the cell's output.

A figure ``name`` is a file ``js/name.js`` that ends in a function ``mount(root, data)``. What all of them draw with
stands once, in ``js/interactive.js``, and their style in ``js/interactive.css``. The script runs in Jupyter, in Colab
and on the book's static page alike. What it computes is compared with the package in the tests.
"""

from __future__ import annotations

import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from IPython.display import HTML

SHARED = "interactive"  # no figure: what is put before each


def interactive(name: str, data: Any = None, *, label: str) -> HTML:
    """The interactive figure ``name``, given ``data`` (anything that JSON can hold).

    Args:
        label: what the figure is for, in a sentence; read aloud to those who do not see it.

    Raises:
        ValueError: when there is no such figure; the message lists those there are.
    """
    folder = files("course_utils.figures") / "js"
    script = folder / f"{name}.js"
    if name == SHARED or not script.is_file():
        scripts = {p.name.removesuffix(".js") for p in folder.iterdir() if p.name.endswith(".js")}
        known = ", ".join(sorted(scripts - {SHARED}))
        raise ValueError(f"there is no interactive figure {name!r}; there are: {known}")
    payload = json.dumps(data, allow_nan=False).replace("</", "<\\/")
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


class _Interactive(HTML):
    """HTML whose plain-text form is its label, for terminals and for tests."""

    def __init__(self, data: str, label: str) -> None:
        super().__init__(data)
        self._label = label

    def __repr__(self) -> str:
        return f"Interactive figure: {self._label}"

"""What the course mends in Sphinx: a button too many on generated pages, and a list that makes the search index slow.

A page made by a tool has no source that a reader could edit, and gets no "suggest edit" button; it carries
``generated: true`` in its front matter.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.search.zh import SearchChinese


class Terms(set[str]):
    """The words in Latin letters that were met: Sphinx has a list, and looks for each word of the book in it."""

    extend = set.update


def drop_edit_button(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Takes the edit button out of the header of a generated page."""
    if not app.env.metadata.get(pagename, {}).get("generated"):
        return
    for button in context.get("header_buttons", []):
        if button["type"] == "group":
            button["buttons"] = [one for one in button["buttons"] if one.get("label") != "source-edit-button"]


SILENT = "sphinx_multitoc_numbering", "sphinx_jupyterbook_latex"


def allow_parallel_reading(app: Sphinx) -> None:
    """Says it for two extensions that do not: they act when all pages have been read, which harms no reading."""
    for name in SILENT:
        app.extensions[name].parallel_read_safe = True


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx; the priority is behind the theme's, which puts the buttons in."""
    SearchChinese.latin_terms = Terms()  # type: ignore[assignment]
    app.connect("builder-inited", allow_parallel_reading)
    app.connect("html-page-context", drop_edit_button, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

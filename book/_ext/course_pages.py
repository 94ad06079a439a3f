"""A page made by a tool has no source that a reader could edit: it gets no "suggest edit" button.

Such a page carries ``generated: true`` in its front matter.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def drop_edit_button(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Takes the edit button out of the header of a generated page."""
    if not app.env.metadata.get(pagename, {}).get("generated"):
        return
    for button in context.get("header_buttons", []):
        if button["type"] == "group":
            button["buttons"] = [one for one in button["buttons"] if one.get("label") != "source-edit-button"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx; the priority is behind the theme's, which puts the buttons in."""
    app.connect("html-page-context", drop_edit_button, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

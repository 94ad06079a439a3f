"""An interactive figure alone on a page, with its script's functions by name beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, Page

from course_utils import figures


@contextlib.contextmanager
def figure_page(browser: Browser, name: str, data: Any, *, label: str = "A figure", **context: Any) -> Iterator[Page]:
    """Open the figure ``name``; at the end, fail if an error was thrown in the page.

    The script stands in the page twice: mounted by the figure, where its functions are nobody else's, and once more for
    the tests to call them.

    Args:
        context: of the browser, such as a ``viewport``.
    """
    opened = browser.new_context(**context)
    page = opened.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content(f"<!doctype html><body>{figures.interactive(name, data, label=label).data}</body>")
    page.add_script_tag(content=(files("course_utils.figures") / "js" / f"{name}.js").read_text("utf8"))
    try:
        yield page
    finally:
        opened.close()
    assert not errors, errors

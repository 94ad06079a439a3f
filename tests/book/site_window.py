"""What the browser tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, ViewportSize

PHONE: ViewportSize = {"width": 390, "height": 844}
LAPTOP: ViewportSize = {"width": 1280, "height": 900}


@dataclass
class Window:
    """A browser window on the site that keeps account of what goes wrong in it."""

    page: Page
    base: str
    troubles: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.base + path, wait_until="load")
        if path == "index.html":  # leads on by itself
            self.page.wait_for_url("**/book/index.html", wait_until="load")
        return self.page


@contextmanager
def new_window(browser: Browser, server: str) -> Iterator[Window]:
    """A fresh window that notes errors, failed requests and requests to other hosts in ``troubles``."""
    with browser.new_context(color_scheme="light", reduced_motion="reduce", viewport=LAPTOP) as context:
        page = context.new_page()
        seen = Window(page, server)
        own = (server, "data:", "blob:")

        def note(trouble: str) -> None:
            seen.troubles.append(f"{page.url}: {trouble}")

        page.on("request", lambda r: r.url.startswith(own) or note(f"asks another host for {r.url}"))
        # A request that was still under way when the window went on to the next page is aborted, and no trouble.
        page.on("requestfailed", lambda r: r.failure == "net::ERR_ABORTED" or note(f"could not load {r.url}"))
        page.on("response", lambda r: r.status >= 400 and note(f"{r.status} for {r.url}"))
        page.on("console", lambda message: message.type == "error" and note(f"console: {message.text}"))
        page.on("pageerror", lambda error: note(f"error: {error}"))
        yield seen


def generated_by_sphinx(page: str) -> bool:
    """Listings of source and indexes: opened, but not held to the rules for what the course has written."""
    return page.startswith("_modules/") or page in {"genindex.html", "py-modindex.html", "index.html"}

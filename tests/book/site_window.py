"""What the browser tests share."""

from __future__ import annotations

from dataclasses import dataclass, field

from playwright.sync_api import Page


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


def generated_by_sphinx(page: str) -> bool:
    """Listings of source and indexes: opened, but not held to the rules for what the course has written."""
    return page.startswith("_modules/") or page in {"genindex.html", "py-modindex.html", "index.html"}

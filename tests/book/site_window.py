"""The built site, a server for it on this machine, and a browser that can reach nothing else."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tools import contents
from tools.book import build

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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built from what is in the checkout now: once, also for several workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "site.lock"):
        built = shared / "site.txt"
        if not built.exists():
            built.write_text(str(build()), "utf8")
    return Path(built.read_text("utf8"))


@pytest.fixture(scope="session")
def pages(site: Path) -> list[str]:
    """Every page, as a path below the site; the templates in _static are none, nor what leads on from old names."""
    found = (file for file in site.rglob("*.html") if file.stem not in contents.MOVED)
    return [page for page in sorted(str(file.relative_to(site)) for file in found) if not page.startswith("_static/")]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: the system's, else Playwright's. Where there is none the tests are skipped, but they fail in CI."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        if system is None and not Path(playwright.chromium.executable_path).is_file():
            reason = "no Chromium here: install the system's package, or run `playwright install chromium`"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # no name leads to another host
        arguments = [offline, "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium's sandbox does not start for root, who runs CI
        browser = playwright.chromium.launch(executable_path=system, args=arguments)
        yield browser
        browser.close()


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A browser that leaves a page before all of it has come is no error."""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing of each request."""


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of the site, served from this machine."""
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture
def window(browser: Browser, server: str) -> Iterator[Window]:
    """A window for one test."""
    with new_window(browser, server) as window:
        yield window


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, to be run in a page."""
    return (Path(__file__).parent / "vendor" / "axe.min.js").read_text("utf8")

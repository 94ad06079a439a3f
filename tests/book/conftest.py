"""The built site, a server for it on this machine, and a browser that can reach nothing else."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, sync_playwright
from site_window import Window, new_window

from tools.book import build

VENDOR = Path(__file__).parent / "vendor"
LONGEST = "test_every_page.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The site is tested when the chapters have run, and building it executes none of them again.

    The first of these tests builds it, while the other worker still has the tests of the package; the rest come last.
    """
    here = Path(__file__).parent
    book = [item for item in items if item.path.is_relative_to(here)]
    others = [item for item in items if not item.path.is_relative_to(here)]
    for item in book:
        item.add_marker(pytest.mark.timeout(1500))  # the first one may have to run every chapter, and builds the book
    long = [item for item in book if item.path.name == LONGEST]
    package = next((n for n, item in enumerate(others) if item.path.parent == here.parent), len(others))
    items[:] = [*others[:package], *long, *others[package:], *(item for item in book if item not in long)]


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
    """Every page of the site, as a path below it; the templates that themes leave in _static are none."""
    return [p for p in sorted(str(f.relative_to(site)) for f in site.rglob("*.html")) if not p.startswith("_static/")]


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
    return (VENDOR / "axe.min.js").read_text("utf8")

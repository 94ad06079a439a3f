"""The built site as a reader meets it, in a browser that has no network: search, colours, figures, links, buttons."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright.sync_api import expect
from site_window import Window

from tools.contents import CHAPTERS, MOVED


@pytest.mark.parametrize(
    ("words", "page"),
    [("gradient accumulation", "book/glossary.html"), ("尾数", "book/glossary.html"), ("隐藏位", "book/glossary.html")],
)
def test_search_finds_english_and_chinese(window: Window, words: str, page: str) -> None:
    window.open(f"search.html?q={words}")
    hit = window.page.locator(f'#search-results li a[href*="{page}"]').first
    expect(hit).to_be_visible(timeout=10_000)
    assert not window.troubles, "\n".join(window.troubles)


def test_a_request_to_another_host_is_noticed_and_refused(window: Window) -> None:
    page = window.open("book/bibliography.html")
    assert not window.troubles
    refused = page.evaluate("fetch('https://example.org/x.js').then(() => 'came', () => 'refused')")
    page.evaluate("console.error('planted')")
    page.wait_for_timeout(100)
    assert refused == "refused"
    assert any("asks another host for https://example.org/x.js" in trouble for trouble in window.troubles)
    assert any("console: planted" in trouble for trouble in window.troubles)


def test_the_address_alone_leads_to_the_first_page(window: Window, site: Path) -> None:
    assert window.open("index.html").url.endswith("/book/index.html")
    assert '<link rel="icon" href="_static/favicon.svg" />' in (site / "index.html").read_text("utf8")
    assert not window.troubles, "\n".join(window.troubles)


def test_an_old_address_leads_on_to_the_same_section(window: Window, site: Path) -> None:
    for folder in ("notebooks", "notebooks/exercises"):
        assert {f"{old}.html" for old in MOVED} == {page.name for page in (site / folder).glob("[0-9][0-9]_*.html")}
    window.open("notebooks/06_float_formats.html#recap")
    window.page.wait_for_url("**/notebooks/float_formats.html#recap", timeout=10_000)
    assert not window.troubles, "\n".join(window.troubles)


def test_search_of_nonsense_finds_nothing(window: Window) -> None:
    window.open("search.html?q=quetzalcoatlus")
    expect(window.page.locator("#search-results p.search-summary")).to_contain_text("did not match", timeout=10_000)
    assert window.page.locator("#search-results li").count() == 0


def test_dark_mode_can_be_chosen_and_is_remembered(window: Window) -> None:
    page = window.open("book/index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    for _ in range(3):  # the button goes round: as the system, light, dark
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button").locator("visible=true").first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(background) != light
    window.open("book/glossary.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_click_on_a_bit_changes_the_number(window: Window) -> None:
    """The interactive figure computes in the page, without a kernel."""
    page = window.open("notebooks/float_formats.html")
    figure = page.locator(".course-interactive", has=page.locator(".bit")).first
    value = figure.locator("output.value")
    before = value.inner_text()
    sign = figure.locator(".sign .bit").first
    sign.click()
    expect(value).not_to_have_text(before)
    assert value.inner_text().replace("-", "").replace("−", "") == before.replace("-", "").replace("−", "")
    sign.focus()
    page.keyboard.press("Space")
    expect(value).to_have_text(before)


class Links(HTMLParser):
    """The addresses and the ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value or "")
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """Links of the site to pages, files or sections that are not there."""
    parsed = {
        file: Links(file.read_text("utf8")) for file in sorted(site.rglob("*.html")) if "_static" not in file.parts
    }
    broken = []
    for file, page in parsed.items():
        for link in page.links:
            parts = urlsplit(urljoin(f"http://site/{file.relative_to(site).as_posix()}", link))
            if parts.netloc != "site" or parts.scheme != "http":
                continue
            target = site / unquote(parts.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            section = unquote(parts.fragment)
            if not target.is_file():
                broken.append(f"{file.relative_to(site)}: no file for {link}")
            elif section and target in parsed and section not in parsed[target].ids:
                broken.append(f"{file.relative_to(site)}: no section for {link}")
    return broken


def test_internal_links_lead_somewhere(site: Path) -> None:
    assert not (broken := broken_links(site)), "\n".join(broken)


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="b.html#gone"></a><a href="c.html">', "utf8"
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here"></a><a href="https://example.org/x">', "utf8")
    assert broken_links(tmp_path) == ["a.html: no section for b.html#gone", "a.html: no file for c.html"]


def test_launch_and_repository_buttons(site: Path) -> None:
    chapter = (site / "notebooks" / f"{CHAPTERS[0].stem}.html").read_text("utf8")
    address = re.escape(_repository().removeprefix("https://github.com/"))
    path = re.escape(f"notebooks/{CHAPTERS[0].name}")
    for pattern in (
        rf'href="https://colab\.research\.google\.com/github/{address}/blob/main/{path}"',
        rf'href="https://mybinder\.org/v2/gh/{address}/main\?urlpath=lab/tree/{path}"',
        rf'href="https://github\.com/{address}"',
        rf'href="https://github\.com/{address}/issues/new',
        rf'href="https://github\.com/{address}/edit/main/{path}"',
    ):
        assert re.search(pattern, chapter), f"no link like {pattern}"
    assert "/edit/main/" not in (site / "book" / "coverage.html").read_text("utf8"), "a generated page has no source"


def _repository() -> str:
    from tools.book import repository_url

    return repository_url()

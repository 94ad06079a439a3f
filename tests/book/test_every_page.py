"""Every page opened once: on a phone, then on a laptop and held to axe-core's rules of accessibility, light and dark.

In a file of its own, which begins while other workers still have other tests: it is the longest of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, TimeoutError
from site_window import LAPTOP, PHONE, generated_by_sphinx, new_window

from tools.contents import CHAPTERS

# What a page may hold that is there to be filled: an output, an interactive figure, a formula.
LOOK = """() => {
  const empty = (e) => !e.textContent.trim() && !e.querySelector("img, svg, canvas, table, input, button, video");
  const name = (e) => e.id || e.outerHTML.slice(0, 120);
  const found = [];
  for (const e of document.querySelectorAll(".cell_output > .output, .course-interactive")) {
    if (empty(e)) found.push("empty: " + name(e));
    if (/Loading widget|Widget Javascript not detected/.test(e.textContent)) found.push("no widget came: " + name(e));
  }
  for (const e of document.querySelectorAll(".course-interactive"))
    if (!e.querySelector("button, input, select")) found.push("a figure with nothing to act on: " + name(e));
  for (const e of document.querySelectorAll("mjx-merror, [data-mjx-error]")) found.push("formula: " + e.textContent);
  for (const e of document.querySelectorAll("article img"))
    if (!e.alt.trim() || /[\\\\/]/.test(e.alt)) found.push("an image without a text that says what it shows: " + e.src);
  for (const e of document.querySelectorAll("article svg[role=img]"))
    if (!(e.getAttribute("aria-label") || "").trim()) found.push("a drawing without a label: " + name(e));
  return found;
}"""

# How wide a page is. The theme cuts off what is wider than its column, so that the page itself is not; and the sign
# that links to a heading, which only a mouse brings up, may stand outside.
WIDTH = """() => {
  const rule = document.head.appendChild(document.createElement("style"));
  rule.textContent = "a.headerlink { display: none; }";
  const parts = [document.documentElement, ...document.querySelectorAll("article.bd-article")];
  const width = Math.max(...parts.map((e) => e.scrollWidth));
  rule.remove();
  return width;
}"""

# In the dark only the colours differ, so only their rules are run again.
AXE = """async (rules) => {
  const options = rules ? {runOnly: {type: "rule", values: rules}} : {};
  const {violations} = await axe.run(document, {...options, resultTypes: ["violations"]});
  return violations.filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => [v.id, `${v.nodes.length} x`, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary].join(" "));
}"""

# All listings are coloured by one style sheet, all formulas set by one library, all signatures and entries of the API
# made by one template, a drawing is one image to it, and the frame is the same round every page: the first few stand
# for the rest, which become plain text or go. They are most of a page's elements, and axe's time grows with these.
THIN = """(frame) => {
  const rest = (selector, kept) => [...document.querySelectorAll(selector)].slice(kept);
  for (const e of [...rest("div.highlight pre", 3), ...rest("dt.sig", 6)]) e.textContent = e.textContent;
  for (const e of rest("article svg[role=img]", 1)) e.replaceChildren();
  for (const e of rest("mjx-container", 4)) e.replaceWith("formula");
  for (const e of [...rest("article dl.py", 12), ...rest("tbody tr", 40)]) e.remove();
  if (!frame) for (const e of document.querySelectorAll("nav")) e.replaceChildren();
}"""


def on_a_phone(page: Page, path: str) -> Iterator[str]:
    """What is empty, nameless or too wide."""
    if page.locator(".math").count():
        page.wait_for_selector("mjx-container", state="attached", timeout=15_000)
    yield from page.evaluate(LOOK)
    if generated_by_sphinx(path):
        return
    try:  # fonts and formulas may still be on their way
        page.wait_for_function(f"({WIDTH})() <= {PHONE['width']}", timeout=5_000)
    except TimeoutError:
        yield f"{page.evaluate(WIDTH)} px wide"


def against_the_rules(page: Page, axe: str, *, frame: bool) -> Iterator[str]:
    """What axe finds on a laptop in what the course has written; the frame round it only where ``frame`` says so."""
    page.set_viewport_size(LAPTOP)
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")  # no colours on their way
    page.evaluate(THIN, frame)
    page.evaluate(axe)
    yield from page.evaluate(AXE)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(50)
    yield from (f"dark: {violation}" for violation in page.evaluate(AXE, ["color-contrast"]))


@pytest.fixture(scope="module")
def found(browser: Browser, server: str, pages: list[str], axe: str) -> dict[str, list[str]]:
    """What is wrong, by the test that it fails."""
    found = defaultdict(list)
    written = [path for path in pages if not generated_by_sphinx(path)]
    with new_window(browser, server) as window:
        for path in pages:
            window.page.set_viewport_size(PHONE)
            page = window.open(path)
            found["phone"] += [f"{path}: {trouble}" for trouble in on_a_phone(page, path)]
            if path in written:
                rules = against_the_rules(page, axe, frame=path in written[:3])
                found["axe"] += [f"{path}: {violation}" for violation in rules]
        found["trouble"] = window.troubles
    return found


def test_every_chapter_is_there(pages: list[str]) -> None:
    assert {f"notebooks/{chapter.stem}.html" for chapter in CHAPTERS} <= set(pages)


def test_pages_open_without_trouble(found: dict[str, list[str]]) -> None:
    assert not found["trouble"], "\n".join(found["trouble"])


def test_nothing_is_empty_and_a_phone_shows_it_all(found: dict[str, list[str]]) -> None:
    assert not found["phone"], "\n".join(found["phone"])


def test_pages_can_be_read_by_everyone(found: dict[str, list[str]]) -> None:
    assert not found["axe"], "\n".join(found["axe"])

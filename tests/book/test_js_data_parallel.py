"""What the interactive figure computes, against the package: the seconds of a step."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.data_parallel.cost import step
from course_utils.measure.communication import Link

START = {
    "millions": 340,
    "bytes": 4,
    "bandwidth": 12.5,
    "latency": 10,
    "compute": 12,
    "batch": 32,
    "ranks": 16,
    "buckets": 8,
}


@pytest.fixture(scope="module")
def clock(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "data_parallel", START) as page:
        yield page


@pytest.mark.parametrize("scaling", ["weak", "strong"])
@pytest.mark.parametrize("ranks", [1, 2, 16, 1024])
@pytest.mark.parametrize(
    "changes", [{}, {"buckets": 1}, {"millions": 7000, "bytes": 2}, {"latency": 1000, "buckets": 64}]
)
def test_seconds_are_those_of_the_package(clock: Page, scaling: str, ranks: int, changes: dict[str, float]) -> None:
    s = {**START, **changes, "scaling": scaling, "ranks": ranks}
    compute = s["compute"] * 1e-3 * s["batch"] / (ranks if scaling == "strong" else 1)
    link = Link(s["latency"] * 1e-6, s["bandwidth"] * 1e9)
    want = step(s["millions"] * 1e6 * s["bytes"], s["buckets"], compute / 3, 2 * compute / 3, ranks, link)
    got = clock.evaluate("([n, s]) => stepOn(n, s)", [ranks, s])
    assert got["computed"] == pytest.approx(want.computed)
    assert got["end"] == pytest.approx(want.end)
    ends = [end for _, end in want.buckets]
    assert [bucket[2] for bucket in got["buckets"]] == pytest.approx(ends)
    gain = clock.evaluate("([n, s]) => speedUp(n, s)", [ranks, s])
    if scaling == "weak":
        assert gain / ranks == pytest.approx(want.efficiency)


def test_what_is_shown_follows_the_controls(clock: Page) -> None:
    def gain() -> float:
        found = re.search(r"speed-up ([\d.]+) on", clock.locator("output.value").inner_text())
        assert found
        return float(found[1])

    before = gain()
    assert before == pytest.approx(16 * step(1.36e9, 8, 0.128, 0.256, 16, Link(1e-5, 12.5e9)).efficiency, rel=0.01)
    clock.locator("select").first.select_option("strong")
    assert gain() < before / 2
    bandwidth = clock.get_by_role("slider", name="link")
    bandwidth.focus()
    strong = gain()
    for _ in range(4):
        clock.keyboard.press("ArrowRight")
    assert bandwidth.get_attribute("aria-valuetext") == "450 GB/s"
    assert gain() > strong

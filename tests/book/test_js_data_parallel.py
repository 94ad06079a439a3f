"""What the interactive figures compute, against the package: the ring's moves and the step's seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.data_parallel import Move, ring_all_reduce
from course_utils.data_parallel.cost import step
from course_utils.launch import launch
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
def ring(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "ring_all_reduce", {"ranks": 4, "step": 1}) as page:
        yield page


@pytest.fixture(scope="module")
def clock(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "data_parallel", START) as page:
        yield page


def moves_of_a_run(ranks: int) -> list[Move]:
    def run() -> list[Move]:
        trace: list[Move] = []
        ring_all_reduce(torch.ones(ranks), trace=trace)
        return trace

    return [move for trace in launch(run, ranks) for move in trace]


@pytest.mark.parametrize("ranks", [2, 4, 5])
def test_the_ring_moves_as_the_real_one_does(ring: Page, ranks: int) -> None:
    script = "n => Array.from({length: 2 * n - 2}, (_, k) => ringMoves(n, k)).flat()"
    shown = {(m["phase"], m["step"], m["source"], m["destination"], m["chunk"]) for m in ring.evaluate(script, ranks)}
    assert shown == {tuple(move[:5]) for move in moves_of_a_run(ranks)}
    final = ring.evaluate("n => ringState(n, 2 * n - 2)", ranks)
    assert final == [[list(range(ranks))] * ranks] * ranks


def test_the_ring_is_stepped_by_buttons_and_keys(ring: Page) -> None:
    ranks, step_slider = ring.locator("input[type=range]").all()
    ranks.fill("4")
    step_slider.fill("0")
    back, forward = ring.locator("button").all()
    assert back.is_disabled()
    for _ in range(3):
        forward.focus()
        ring.keyboard.press("Enter")
    shown = ring.locator("output.value").inner_text()
    assert shown == "each rank has sent 0.75 S of 1.5 S"
    assert "Finished sums: 4 of 16 cells" in ring.locator("output.note").inner_text()
    step_slider.focus()
    for _ in range(3):
        ring.keyboard.press("ArrowRight")
    assert "Finished sums: 16 of 16 cells" in ring.locator("output.note").inner_text()
    assert forward.is_disabled()
    ranks.fill("2")  # fewer steps than where we are
    assert step_slider.get_attribute("aria-valuetext") == "2 of 2"


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

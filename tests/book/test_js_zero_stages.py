"""The interactive figure: its bytes are those of the package, and it answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.zero import cost as zero

DATA = {"billions": 7.5, "ranks": 64, "memory": 80, "precision": "bf16", "offload": False, "microBatches": 1}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "zero_stages", DATA) as page:
        yield page


def test_bytes_are_those_of_the_package(page: Page) -> None:
    for stage in zero.STAGES:
        for ranks in (1, 2, 64, 1000):
            for precision in ("fp32", "bf16"):
                for offload in (False, True) if stage else (False,):
                    got = page.evaluate("(a) => zeroHeld(...a)", [7e9, ranks, stage, precision, offload])
                    device, host = zero.states_per_rank(7e9, ranks, stage, precision=precision, offload=offload)
                    assert got["device"] == pytest.approx(list(device), rel=1e-12)
                    assert got["host"] == pytest.approx(list(host), rel=1e-12)
                for micro_batches in (1, 8):
                    got = page.evaluate("(a) => zeroSent(...a)", [7e9, ranks, stage, precision, micro_batches])
                    sent = zero.sent_per_rank(7e9, ranks, stage, precision=precision, micro_batches=micro_batches)
                    assert got == pytest.approx(sum(sent.values()), rel=1e-12)


def test_it_answers(page: Page) -> None:
    drawing, result = page.locator("svg[role=img]"), page.locator("output")
    label = drawing.get_attribute("aria-label") or ""
    assert "stage 0 120 GB" in label
    assert "stage 1 31.4 GB" in label
    assert "stage 2 16.6 GB" in label
    assert "stage 3 1.88 GB" in label
    expect(result).to_have_text("The lowest stage whose states fit: 1, with 31.4 GB of 80 GB.")
    page.get_by_label("parameters").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(result).to_contain_text("No stage fits: 250 GB at least")
    page.get_by_label("optimizer on").select_option("true")
    expect(result).to_have_text("The lowest stage whose states fit: 3, with 31.3 GB of 80 GB.")

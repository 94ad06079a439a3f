"""The interactive figure: its steps, rates and areas are those of the package, and it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.vision.assembly import build_model, make_optimizer
from course_utils.vision.recipes import FromScratch

DATA = {"ranks": 4, "per_rank": 32, "epochs": 5, "images": 50_000, "lr": 5e-4, "lr_batch": 512, "warmup": 0.1}
CASES: list[dict[str, Any]] = [
    {},
    {"ranks": 2, "per_rank": 16, "epochs": 1, "images": 1000, "warmup": 0.05},  # 31 steps: 1.55 of warm-up
    {"ranks": 1, "per_rank": 8, "epochs": 1, "images": 40, "warmup": 0.3},  # 5 steps: 1.5, which rounds to even
    {"ranks": 8, "per_rank": 64, "epochs": 2, "images": 5000, "warmup": 0.0},
    {"ranks": 1, "per_rank": 8, "epochs": 1, "images": 1600, "warmup": 0.02, "lr": 2e-3},
]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "schedule_area", DATA) as page:
        yield page


@pytest.mark.parametrize("changes", CASES)
def test_rates_are_those_of_a_run(page: Page, changes: dict[str, Any]) -> None:
    chosen = {**DATA, **changes}
    batch = chosen["ranks"] * chosen["per_rank"]
    keys = {key: chosen[key] for key in ("epochs", "lr", "lr_batch", "warmup")}
    config = FromScratch(batch_size=batch, **keys)
    steps = chosen["images"] // batch * config.epochs
    optimizer, scheduler = make_optimizer(config, build_model(config, (1, 8, 8), 10), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    plan = page.evaluate("(s) => planOf(s)", {**chosen, "tied": True})
    assert (plan["batch"], plan["steps"]) == (batch, steps)
    assert plan["peak"] == pytest.approx(config.rate, rel=1e-12)
    found = page.evaluate("(p) => Array.from({ length: p.steps }, (_, t) => rateAt(t, p))", plan)
    assert found == pytest.approx(rates, rel=1e-9, abs=1e-15)
    assert page.evaluate("(p) => areaOf(p)", plan) == pytest.approx(sum(rates), rel=1e-9)


def test_it_answers(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, note = figure.locator("output.value"), figure.locator("output.note")
    expect(note).to_contain_text("global batch 128, 390 steps an epoch, 1950 steps, warm-up 195")
    expect(note).to_contain_text("a constant 1e-5 would come to 0.0195")
    before = value.inner_text()
    ranks = figure.get_by_role("slider", name="processes")
    ranks.focus()
    ranks.press("ArrowRight")
    expect(note).to_contain_text("global batch 256, 195 steps an epoch")
    twice = float(value.inner_text().split("at most ")[1].split(":")[0])
    assert twice == pytest.approx(float(before.split("at most ")[1].split(":")[0]), rel=0.01), (
        "half the steps, twice the rate"
    )
    figure.get_by_role("checkbox").uncheck()
    alone = float(value.inner_text().split("at most ")[1].split(":")[0])
    assert alone == pytest.approx(2 * twice, rel=0.01), "the rate of a batch of 512, on 256 images"

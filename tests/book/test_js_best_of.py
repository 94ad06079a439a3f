"""What the interactive figure computes, against the binomial noise it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page

DATA = {"images": 2000, "candidates": 20, "accuracy": 80}


@pytest.fixture(scope="module")
def figure(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "best_of", DATA) as page:
        yield page


def test_the_mean_of_the_largest_of_several_normals(figure: Page) -> None:
    found = figure.evaluate("[1, 2, 3, 20, 100].map(largestOfNormals)")
    assert found[:3] == pytest.approx([0, np.pi**-0.5, 1.5 * np.pi**-0.5], abs=1e-5)  # known in closed form
    drawn = np.random.default_rng(0).standard_normal((40_000, 100))
    assert found[3:] == pytest.approx([drawn[:, :20].max(1).mean(), drawn.max(1).mean()], abs=0.01)


@pytest.mark.parametrize(("images", "candidates", "accuracy"), [(3.3, 20, 80), (2, 5, 60), (4, 100, 98.5), (5, 1, 50)])
def test_the_best_of_several_is_as_flattering_as_in_a_simulation(
    figure: Page, images: float, candidates: int, accuracy: float
) -> None:
    for slider, value in zip(figure.locator("input[type=range]").all(), (images, candidates, accuracy), strict=True):
        slider.fill(str(value))
    text = figure.locator("output.value").inner_text()
    best, flattery = map(float, re.findall(r"be ([\d.]+) %, ([\d.]+) points", text)[0])
    n = round(10**images)
    hits = np.random.default_rng(1).binomial(n, accuracy / 100, (20_000, candidates)).max(1) / n
    error = 100 * (accuracy / 100 * (1 - accuracy / 100) / n) ** 0.5
    assert best == pytest.approx(100 * hits.mean(), abs=0.01 + 0.06 * error)
    assert best - accuracy == pytest.approx(flattery, abs=0.011)
    assert f"standard error of {error:.2f} points" in figure.locator("output.note").inner_text()


def test_the_keyboard_adds_models(figure: Page) -> None:
    images, candidates, accuracy = figure.locator("input[type=range]").all()
    images.fill("3")
    accuracy.fill("80")
    candidates.fill("1")
    assert "0.00 points too high" in figure.locator("output.value").inner_text()
    candidates.focus()
    figure.keyboard.press("ArrowRight")
    assert candidates.get_attribute("aria-valuetext") == "2"
    assert "0.71 points too high" in figure.locator("output.value").inner_text()
    assert figure.locator("svg").get_attribute("aria-label").endswith(figure.locator("output.value").inner_text())

"""What the interactive figure computes, against the course's own formats."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.precision.formats import BF16, FP8_E4M3, FP8_E5M2, FP16, Format

FORMATS = {f.name: f for f in (FP16, BF16, FP8_E5M2, FP8_E4M3)}
SIZES = np.round(np.random.default_rng(0).normal(-17, 5, 700), 2)  # log2 of gradients of a mean over 64 images
BASE = 6


@pytest.fixture(scope="module")
def figure(browser: Browser) -> Iterator[Page]:
    described = [
        {
            "name": f.name,
            "smallest": f.min_exponent - f.mantissa_bits,
            "normal": f.min_exponent,
            "largest": f.max,
            "mantissa_bits": f.mantissa_bits,
        }
        for f in FORMATS.values()
    ]
    data = {"sizes": SIZES.tolist(), "base": BASE, "formats": described, "format": "FP16", "images": 20, "scale": 0}
    with figure_page(browser, "gradient_range", data) as page:
        yield page


def expected(fmt: Format, images: int, scale: int) -> dict[str, float]:
    exact = np.exp2(SIZES + BASE - images + scale)
    stored = fmt.round(exact)
    lost, gone = stored == 0, ~np.isfinite(stored)
    subnormal = ~lost & (exact < fmt.smallest_normal)
    kinds = {"vanish": lost, "subnormal": subnormal, "normal": ~(lost | gone | subnormal), "overflow": gone}
    return {name: 100 * kind.mean() for name, kind in kinds.items()}


def shown(figure: Page) -> dict[str, float]:
    text = figure.locator("output.value").inner_text()
    return {name: float(number) for name, number in re.findall(r"(\w+) ([\d.]+) %", text)}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("images", "scale"), [(6, 0), (20, 0), (20, 16), (26, 3), (13, 33), (6, 40)])
def test_shares_are_those_of_the_format(figure: Page, name: str, images: int, scale: int) -> None:
    figure.locator("select").select_option(name)
    for slider, value in zip(figure.locator("input[type=range]").all(), (images, scale), strict=True):
        slider.fill(str(value))
    want = expected(FORMATS[name], images, scale)
    assert shown(figure) == pytest.approx(want, abs=0.0501)
    assert sum(want.values()) == pytest.approx(100)


def test_the_keyboard_moves_the_scale(figure: Page) -> None:
    figure.locator("select").select_option("FP16")
    images, scale = figure.locator("input[type=range]").all()
    images.fill("20")
    scale.fill("0")
    before = shown(figure)
    scale.focus()
    for _ in range(16):
        figure.keyboard.press("ArrowRight")
    assert scale.get_attribute("aria-valuetext") == "2 to the 16"
    assert shown(figure)["vanish"] < before["vanish"]
    assert figure.locator("svg").get_attribute("aria-label").endswith(figure.locator("output.value").inner_text())

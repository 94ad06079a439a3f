"""The interactive figure: its arithmetic is that of the package, and it answers to mouse and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.models import ViTConfig
from course_utils.plan.flops import vit_macs, vit_parameters

MODELS = ("tiny16", "small16", "base16", "large16")


def described(preset: str) -> dict[str, Any]:
    c = ViTConfig.preset(preset)
    return {"name": preset, "width": c.width, "depth": c.depth, "heads": c.heads, "mlp_ratio": c.mlp_ratio}


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that holds the figure and notes its errors."""
    data = {"models": [described(m) for m in MODELS], "model": "base16", "image_size": 224, "patch_size": 16}
    data |= {"channels": 3, "classes": 1000, "pixels": [[0, 100], [200, 255]]}
    with figure_page(browser, "patch_grid", data) as page:
        yield page


@pytest.mark.parametrize("preset", MODELS)
@pytest.mark.parametrize(
    ("image", "patch", "channels", "classes"), [(224, 16, 3, 1000), (28, 7, 1, 10), (384, 32, 3, 5)]
)
def test_formulas_are_those_of_the_package(
    page: Page, preset: str, image: int, patch: int, channels: int, classes: int
) -> None:
    sizes = {"image_size": image, "patch_size": patch, "channels": channels, "num_classes": classes}
    config = ViTConfig.preset(preset, **sizes)
    arguments = [described(preset), image, patch, channels, classes]
    cost = page.evaluate("(a) => vitCost(...a)", arguments)
    assert cost["macs"] == vit_macs(config)
    assert cost["parameters"] == vit_parameters(config)
    assert cost["allMacs"] == sum(vit_macs(config).values())
    assert cost["allParameters"] == sum(vit_parameters(config).values())
    assert cost["tokens"] == config.prefix + config.patches
    assert cost["scoreBytes"] == 4 * config.depth * config.heads * cost["tokens"] ** 2


@pytest.mark.parametrize(("image", "patch"), [(224, 16), (230, 16), (8, 16), (28, 7), (30, 4)])
def test_sizes_are_refused_in_the_words_of_the_package(page: Page, image: int, patch: int) -> None:
    try:
        ViTConfig(image_size=image, patch_size=patch)
        problem = ""
    except ValueError as error:
        problem = str(error)
    assert page.evaluate("(a) => sizeProblem(...a)", [image, patch]) == problem


def test_it_answers(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, note = figure.locator("output.value"), figure.locator("output.note")
    expect(value).to_have_text("14 x 14 patches, 197 tokens")
    expect(figure).to_contain_text("86,567,656 parameters, 17.6 GMACs")
    assert figure.locator(".share").count() == 6

    figure.get_by_label("image, pixels").fill("384")
    expect(value).to_have_text("24 x 24 patches, 577 tokens")
    expect(figure).to_contain_text("86,859,496 parameters, 55.5 GMACs")

    figure.get_by_role("combobox", name="patch").focus()
    page.keyboard.press("ArrowDown")
    expect(value).to_have_text("12 x 12 patches, 145 tokens")

    figure.get_by_label("image, pixels").fill("230")
    expect(value).to_have_text("does not fit")
    expect(note).to_have_text("image height 230 is no multiple of the patch's 32: resize or pad it to 224 or 256")
    figure.get_by_label("image, pixels").fill("")
    expect(note).to_have_text("give whole numbers of pixels, such as 224 and 16")

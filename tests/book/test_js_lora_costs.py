"""What the interactive figure computes, against the course's own formulas."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.models.text import TextConfig
from course_utils.tuning.cost import MATRICES, lora_model_parameters, step_macs

SCRIPT = (files("course_utils.figures") / "js" / "lora_costs.js").read_text("utf-8")
BASE = TextConfig(num_classes=18)
SMALL = TextConfig(width=48, depth=3, heads=4, mlp_ratio=1.5, num_classes=5)
PARAMETERS = 102_281_490


def described(config: TextConfig) -> dict[str, object]:
    sizes = {"width": config.width, "depth": config.depth, "mlp_width": config.mlp_width}
    return {"name": f"width {config.width}", **sizes, "parameters": PARAMETERS}


def test_the_script_computes_what_the_package_does(browser: Browser) -> None:
    page = browser.new_page()
    body = "return loraCosts(m, classes, tokens, rank, matrices);"
    for config in (BASE, SMALL):
        for tokens, rank, matrices in [(20, 8, "qkv"), (1, 1, ""), (128, 64, "v"), (9, 3, "k"), (20, 8, None)]:
            names = list(MATRICES) if matrices is None else list(matrices)
            arguments = [described(config), config.num_classes, tokens, rank, names]
            found = page.evaluate(f"([m, classes, tokens, rank, matrices]) => {{ {SCRIPT}\n{body} }}", arguments)
            head, added = (config.width + 1) * config.num_classes, lora_model_parameters(config, rank, names)
            assert (found["lora"]["trained"], found["lora"]["weights"]) == (added + head, PARAMETERS + added)
            assert found["full"]["trained"] == PARAMETERS
            expected = {
                "full": step_macs(config, tokens, full=True),
                "lora": step_macs(config, tokens, lora=dict.fromkeys(names, rank)),
            }
            for who, macs in expected.items():
                assert {part: found[who][part] for part in macs} == macs, (who, tokens, rank, names)
    page.close()


@pytest.fixture
def figure(browser: Browser) -> Iterator[Page]:
    data = {"models": [described(BASE), described(SMALL)], "model": "width 768", "rank": 8, "matrices": ["q", "k", "v"]}
    with figure_page(browser, "lora_costs", {**data, "tokens": 20, "classes": 18}) as page:
        yield page


def test_it_answers_to_its_controls(figure: Page) -> None:
    headline, (rank, tokens) = figure.locator("output.value"), figure.locator("input[type=number]").all()
    assert headline.inner_text().startswith("456,210 of 102,723,858 numbers train, for 0.67 of the arithmetic")
    assert figure.locator(".share").count() == 10
    rank.fill("16")
    assert headline.inner_text().startswith(f"{442_368 * 2 + 13_842:,} of")
    for box in figure.locator("input[type=checkbox]").all():
        box.focus()
        if box.is_checked():
            figure.keyboard.press("Space")
    assert headline.inner_text().startswith("13,842 of 102,281,490 numbers train, for 0.33 of")
    tokens.fill("")
    assert "whole numbers above 0" in headline.inner_text()

"""What the interactive figure computes, against the course's own formulas."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page

from course_utils.models.text import TextConfig
from course_utils.tuning.cost import p_tuning_parameters, prefix_parameters, prompt_parameters, step_macs

SCRIPT = (files("course_utils.figures") / "js" / "prompt_costs.js").read_text("utf-8")
BASE = TextConfig(num_classes=18)
SMALL = TextConfig(width=48, depth=3, heads=4, mlp_ratio=1.5, num_classes=5)
PARAMETERS = 102_281_490


def described(config: TextConfig) -> dict[str, object]:
    sizes = {"width": config.width, "depth": config.depth, "mlp_width": config.mlp_width}
    return {"name": f"width {config.width}", **sizes, "parameters": PARAMETERS}


@pytest.mark.parametrize("config", [BASE, SMALL])
@pytest.mark.parametrize(("tokens", "length"), [(20, 10), (1, 1), (128, 100)])
def test_the_script_computes_what_the_package_does(
    browser: Browser, config: TextConfig, tokens: int, length: int
) -> None:
    page = browser.new_page()
    body = "return tuningCosts(m, classes, tokens, length);"
    arguments = [described(config), config.num_classes, tokens, length]
    rows = page.evaluate(f"([m, classes, tokens, length]) => {{ {SCRIPT}\n{body} }}", arguments)
    page.close()
    d, depth, head = config.width, config.depth, (config.width + 1) * config.num_classes
    prompt, prefix = prompt_parameters(length, d), prefix_parameters(length, d, depth)
    expected = {
        "full": (PARAMETERS - head, PARAMETERS - head),
        "head": (0, 0),
        "prompt": (prompt, prompt),
        "mlp": (p_tuning_parameters(length, d), prompt),
        "lstm": (p_tuning_parameters(length, d, network="lstm"), prompt),
        "prefix": (prefix, prefix),
        "written": (prefix_parameters(length, d, depth, d), prefix),
    }
    ways = {"full": {"full": True}, "head": {}, "prompt": {"prompt": length}, "prefix": {"prefix": length}}
    steps = {name: sum(step_macs(config, tokens, **way).values()) for name, way in ways.items()}
    steps |= {"mlp": steps["prompt"], "lstm": steps["prompt"], "written": steps["prefix"]}
    assert {row["kind"]: (row["trained"] - head, row["kept"] - head) for row in rows} == expected
    for row in rows:
        assert row["step"] == pytest.approx(steps[row["kind"]] / steps["full"], rel=1e-12)


@pytest.fixture
def figure(browser: Browser) -> Iterator[Page]:
    data = {"models": [described(BASE), described(SMALL)], "model": "width 768", "length": 10, "tokens": 20}
    with figure_page(browser, "prompt_costs", {**data, "classes": 18}) as page:
        yield page


def test_it_answers_to_its_controls(figure: Page) -> None:
    headline, (length, tokens) = figure.locator("output.value"), figure.locator("input").all()
    assert headline.inner_text().startswith("prompt tuning: 21,522 of 102,281,490 numbers train, for 1.01 of")
    assert figure.locator(".share").count() == 7
    length.fill("100")
    step = sum(step_macs(BASE, 20, prompt=100).values()) / sum(step_macs(BASE, 20, full=True).values())
    assert f"for {step:.2f} of" in headline.inner_text()
    tokens.focus()
    figure.keyboard.press("ArrowUp")
    assert tokens.input_value() == "21"
    tokens.fill("")
    assert "whole numbers above 0" in headline.inner_text()

"""The arithmetic of the interactive float figure against the package, on numbers that decide roundings."""

import math
from importlib.resources import files

import numpy as np
import pytest
from playwright.sync_api import Browser

from course_utils import figures
from course_utils.precision.formats import BF16, FP4_E2M1, FP8_E4M3, FP8_E5M2, FP16, FP32, TF32, Format

SCRIPT = (files("course_utils.figures") / "js" / "float_bits.js").read_text("utf-8")


@pytest.mark.parametrize("fmt", [FP32, TF32, BF16, FP16, FP8_E4M3, FP8_E5M2, FP4_E2M1], ids=lambda f: f.name)
def test_the_script_rounds_as_the_package_does(browser: Browser, fmt: Format):
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(3000) * np.exp2(rng.uniform(-150, 130, 3000))
    marks = fmt.decode(rng.integers(0, fmt.max_code, 500))
    ties = (marks + fmt.decode(fmt.encode(marks) + np.uint64(1))) / 2
    x = np.concatenate([spread, marks, ties[np.isfinite(ties)], [0.0, -0.0, fmt.max * 1.01, -fmt.max * 3]]).tolist()

    page = browser.new_page()
    body = "const codes = xs.map(x => encode(f, x)); return [codes, codes.map(c => String(decode(f, c)))];"
    codes, values = page.evaluate(f"([f, xs]) => {{ {SCRIPT}\n{body} }}", [vars(fmt), x])
    page.close()

    assert np.array_equal(np.array(codes, dtype=np.uint64), fmt.encode(x))
    for text, expected in zip(values, fmt.round(x), strict=True):
        value = float(text.replace("Infinity", "inf"))
        assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_clicking_and_typing(browser: Browser):
    start = {"formats": [vars(FP32), vars(FP16)], "format": "FP32", "value": 25.125}
    page = browser.new_page()
    page.set_content(figures.interactive("float_bits", start, label="The bits of a number").data)
    value = page.locator("output.value")
    assert value.inner_text() == "= 25.125"
    page.get_by_role("button", name="sign bit 0").click()
    assert value.inner_text() == "= -25.125"
    page.get_by_role("combobox").select_option("FP16")
    page.get_by_role("textbox").fill("70000")
    assert value.inner_text() == "= Infinity"
    page.get_by_role("textbox").fill("nonsense")
    assert "type a number" in page.locator("output.note").inner_text()
    page.close()

"""Figures that look their numbers up: a page shows what the package computes, and answers to every kind of control.

What stands in the tables is tested in ``tests/test_figures_answers.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from figure_page import figure_page
from playwright.sync_api import Browser, expect

from course_utils.data.news import LABELS_ENGLISH
from course_utils.figures import (
    best_of,
    gradient_range,
    lora_costs,
    patch_grid,
    prompt_costs,
    ring_all_reduce,
    schedule_area,
    tensor_shards,
    votes,
    zero_choice,
    zero_stages,
)
from course_utils.models import ViTConfig
from course_utils.plan.flops import vit_macs, vit_parameters
from course_utils.precision.formats import BF16, FP8_E4M3, FP8_E5M2, FP16
from course_utils.tensor.cost import layer_bytes
from course_utils.zero import choice
from course_utils.zero import cost as zero

PHONE = {"width": 360, "height": 640}
SIZES = np.round(np.random.default_rng(0).normal(-17, 5, 700), 2)  # log2 of gradients of a mean over 64 images
FORMATS = {f.name: f for f in (FP16, BF16, FP8_E5M2, FP8_E4M3)}
WAYS = {name: torch.tensor(np.random.default_rng(k).integers(0, 4, 30)) for k, name in enumerate("xyz")}

# Of each figure: what makes its data, and where it begins.
FIGURES: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "best_of": (best_of.answers, {"images": 2000, "candidates": 20, "accuracy": 80}),
    "gradient_range": (
        lambda: gradient_range.answers(SIZES, FORMATS.values(), images=6),
        {"format": "FP16", "images": 20, "scale": 0},
    ),
    "lora_costs": (lora_costs.answers, {"model": "BERT base", "rank": 8, "tokens": 20, "matrices": 0b000111}),
    "patch_grid": (
        lambda: patch_grid.answers() | {"pixels": [[0, 100], [200, 255]]},
        {"model": "ViT-B", "image": 224, "patch": 16},
    ),
    "prompt_costs": (prompt_costs.answers, {"model": "BERT base", "length": 10, "tokens": 20}),
    "ring_all_reduce": (ring_all_reduce.answers, {"ranks": 4, "step": 1}),
    "schedule_area": (
        schedule_area.answers,
        {"ranks": 4, "per_rank": 32, "epochs": 5, "lr": 5e-4, "warmup": 0.1, "tied": True},
    ),
    "tensor_shards": (tensor_shards.answers, {"model": "BLOOM", "ranks": 4, "sequences": 2, "mode": "tensor"}),
    "votes": (lambda: votes.answers(WAYS["z"], WAYS, LABELS_ENGLISH), {"ticked": 0b011}),
    "zero_choice": (
        lambda: zero_choice.answers() | {"device": 2000},
        {"billions": 7.5, "ranks": 8, "memory": 70, "host_memory": 128, "tokens": 8192}
        | {"tflops": 150, "link": 100, "host_link": 25, "host": 25},
    ),
    "zero_stages": (
        zero_stages.answers,
        {"billions": 7.5, "ranks": 64, "memory": 80, "precision": "bf16", "offload": False, "micro_batches": 1},
    ),
}


@functools.cache
def answers(name: str) -> dict[str, Any]:
    return FIGURES[name][0]()


def opened(browser: Browser, name: str, /, **start: Any) -> Any:
    viewport = start.pop("viewport", {"width": 800, "height": 600})
    return figure_page(browser, name, answers(name) | {"start": FIGURES[name][1] | start}, viewport=viewport)


def gradients(format: str, images: int, scale: int) -> str:
    exact = np.exp2(SIZES + 6 - images + scale)
    stored = FORMATS[format].round(exact)
    lost, gone = stored == 0, ~np.isfinite(stored)
    small = ~lost & (exact < FORMATS[format].smallest_normal)
    kinds = {"vanish": lost, "subnormal": small, "normal": ~(lost | gone | small), "overflow": gone}
    return " · ".join(f"{name} {100 * kind.mean():.1f} %" for name, kind in kinds.items())


def image(model: str, image: int, patch: int) -> str:
    try:
        config = ViTConfig.preset(patch_grid.MODELS[model], image_size=image, patch_size=patch)
    except ValueError as error:
        return str(error)
    return f"{sum(vit_parameters(config).values()):,} parameters, {sum(vit_macs(config).values()) / 1e9:.3g} GMACs"


def best_setting(**changes: float) -> str:
    s = FIGURES["zero_choice"][1] | changes
    memory = s["memory"] * 1e9, s["host_memory"] * 1e9
    rates = s["tflops"] * 1e12, 2e12, s["link"] * 1e9, s["host_link"] * 1e9, s["host"] * 1e9
    best = choice.choose(s["billions"] * 1e9, s["ranks"], s["tokens"], choice.Machine(*memory, *rates))
    return f"take stage {best.name}" if best else "nothing fits"


def flattery(images: int, candidates: int) -> str:
    points = 100 * (0.8 * 0.2 / images) ** 0.5 * best_of.largest_of_normals(candidates)
    return f"seems to be {80 + points:.2f} %, {points:.2f} points too high"


GRADIENTS = [("FP16", 20, 0), ("BF16", 6, 0), ("FP8 E5M2", 20, 16), ("FP8 E4M3", 13, 33)]
IMAGES = [("ViT-B", 224, 16), ("ViT-Ti", 224, 16), ("ViT-L", 384, 16), ("ViT-S", 96, 14)]
MACHINES = [{}, {"memory": 20}, {"memory": 20, "link": 3}, {"memory": 20, "link": 3, "billions": 30}, {"billions": 175}]


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("best_of", {}, flattery(2000, 20)),
        ("best_of", {"images": 500, "candidates": 100}, flattery(500, 100)),
        *(
            ("gradient_range", dict(zip(("format", "images", "scale"), g, strict=True)), gradients(*g))
            for g in GRADIENTS
        ),
        ("lora_costs", {}, "456,210 of 102,723,858 numbers train, for 0.67 of the arithmetic"),
        ("lora_costs", {"matrices": 0}, "13,842 of 102,281,490 numbers train, for 0.33 of the arithmetic"),
        *(("patch_grid", dict(zip(("model", "image", "patch"), i, strict=True)), image(*i)) for i in IMAGES),
        ("prompt_costs", {}, "prompt tuning: 21,522 of 102,281,490 numbers train, for 1.01 of the arithmetic"),
        ("prompt_costs", {"length": 100}, "27,249,426 trained, 90,642 kept"),  # the LSTM
        ("ring_all_reduce", {"step": 3}, "each rank has sent 0.75 S of 1.5 S"),
        ("schedule_area", {}, "global batch 128, 390 steps an epoch, 1950 steps, warm-up 195, largest rate 0.00013"),
        ("schedule_area", {"tied": False}, "largest rate 0.00050"),
        ("tensor_shards", {}, f"sends {layer_bytes(2 * 2 * 2048 * 14_336, 4) / 1e9:.3g} GB for it in a step"),
        ("tensor_shards", {"ranks": 32}, "112 heads cannot be divided over 32 ranks"),
        ("votes", {"ticked": 0b100}, "30 of 30 titles right: accuracy 1.000, macro-F1 1.000"),
        *(("zero_choice", machine, best_setting(**machine)) for machine in MACHINES),
        ("zero_stages", {}, "The lowest stage whose states fit: 1, with 31.4 GB of 80 GB."),
        (
            "zero_stages",
            {"billions": 1000},
            f"No stage fits: {zero.states_per_rank(1e12, 64, 3)[0].total / 1e9:.3g} GB at least",
        ),
    ],
)
def test_a_page_shows_what_the_package_computes(browser: Browser, name: str, start: dict[str, Any], words: str) -> None:
    with opened(browser, name, **start) as page:
        expect(page.get_by_role("group", name="A figure")).to_contain_text(words)


@pytest.mark.parametrize("name", FIGURES)
def test_a_phone_shows_all_of_it_in_letters_that_can_be_read(browser: Browser, name: str) -> None:
    with opened(browser, name, viewport=PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        drawn = "[...document.querySelectorAll('svg[role=img] text')]"
        heights = page.evaluate(f"{drawn}.map(e => e.getBoundingClientRect().height).filter(h => h > 0)")
        assert all(height > 9 for height in heights), min(heights)
        assert page.evaluate(f"{drawn}.every(e => e.getBoundingClientRect().right <= {PHONE['width']})")
        for sentence in page.evaluate(
            "[...document.querySelectorAll('[role=img]')].map(e => e.getAttribute('aria-label'))"
        ):
            assert len(sentence) > 20


def test_another_width_is_another_drawing(browser: Browser) -> None:
    with opened(browser, "best_of") as page:
        drawing = page.locator("svg[role=img]")
        wide = str(drawing.get_attribute("viewBox"))
        page.set_viewport_size(PHONE)
        expect(drawing).not_to_have_attribute("viewBox", wide)


def test_sliders_answer_to_mouse_and_keyboard(browser: Browser) -> None:
    with opened(browser, "best_of") as page:
        images, candidates = page.get_by_role("slider", name="test images"), page.get_by_role("slider", name="models")
        value = page.locator("output.value")
        candidates.focus()
        page.keyboard.press("Home")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        expect(value).to_contain_text("0.00 points too high")
        page.keyboard.press("ArrowRight")
        expect(candidates).to_have_attribute("aria-valuetext", "2")
        expect(value).to_contain_text(flattery(2000, 2))
        expect(page.locator("svg")).to_have_attribute(
            "aria-label",
            f"Points by which the best accuracy is too high, against the number of models: {value.inner_text()}",
        )
        box = images.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] + 5, box["y"] + 3, steps=4)
        page.mouse.up()
        expect(images).to_have_attribute("aria-valuetext", "100,000")
        expect(value).to_contain_text(flattery(100_000, 2))


def test_menus_and_ticks_answer(browser: Browser) -> None:
    with opened(browser, "zero_stages", billions=405, ranks=128) as page:
        result = page.locator("output.value")
        expect(result).to_contain_text("The lowest stage whose states fit: 3, with 50.6 GB of 80 GB.")
        page.get_by_label("optimizer on").select_option("the host (offload)")
        expect(result).to_contain_text("The lowest stage whose states fit: 3, with 6.33 GB of 80 GB.")
    with opened(browser, "votes", ticked=0b100) as page:
        boxes = page.get_by_role("checkbox")
        boxes.nth(0).focus()
        page.keyboard.press("Space")
        same = int((WAYS["x"] == WAYS["z"]).sum())
        expect(page.locator("output.note")).to_contain_text(f"All 2 give the same answer to {same} titles")
        for k in (0, 2):
            boxes.nth(k).uncheck()
        expect(page.locator("output.value")).to_have_text("choose at least one")
        expect(page.locator(".share")).to_have_count(0)


def test_the_ring_is_stepped_by_buttons_and_keys(browser: Browser) -> None:
    with opened(browser, "ring_all_reduce", step=0) as page:
        step, note = page.get_by_role("slider", name="step"), page.locator("output.note")
        back, forward = page.get_by_role("button", name="back"), page.get_by_role("button", name="next step")
        expect(back).to_be_disabled()
        for _ in range(3):
            forward.press("Enter")
        expect(note).to_contain_text("Finished sums: 4 of 16 cells")
        for _ in range(3):
            step.press("ArrowRight")
        expect(note).to_contain_text("Finished sums: 16 of 16 cells")
        expect(forward).to_be_disabled()
        page.get_by_role("slider", name="ranks N").press("Home")  # fewer steps than where we are
        expect(step).to_have_attribute("aria-valuetext", "2 of 2")
        expect(note).to_contain_text("Finished sums: 4 of 4 cells")


def test_a_rank_is_chosen_by_click_and_by_key(browser: Browser) -> None:
    with opened(browser, "tensor_shards") as page:
        headline = page.locator("output.value")
        expect(headline).to_have_text("rank 0: heads 0 to 27, hidden units 0 to 14,335")
        page.get_by_role("button", name="3", exact=True).click()
        expect(headline).to_have_text("rank 3: heads 84 to 111, hidden units 43,008 to 57,343")
        page.get_by_role("button", name="2", exact=True).press("Enter")
        expect(headline).to_contain_text("rank 2")
        assert page.evaluate("document.activeElement.textContent") == "2"
        page.get_by_label("ranks", exact=False).first.select_option("16")
        expect(page.locator("output.note")).to_contain_text("the group spans 2 machines")

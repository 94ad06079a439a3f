"""The interactive figure: its arithmetic is that of the package, and it answers to mouse and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.hybrid.cost import JEAN_ZAY, layer_share
from course_utils.measure.communication import all_gather_bytes, ring_all_reduce_time
from course_utils.plan.activations import layer_activations
from course_utils.plan.transformer import BLOOM, GPT3, GPT3_6B, MT_NLG, Decoder, forward_flops
from course_utils.tensor.cost import layer_bytes

MODELS = (GPT3_6B, GPT3, BLOOM, MT_NLG)
LINKS = {
    name: {"latency": link.latency, "bandwidth": link.bandwidth}
    for name, link in {"inside": JEAN_ZAY.inside, "between": JEAN_ZAY.between}.items()
}
DATA: dict[str, Any] = {
    "models": [
        {"name": m.name, "width": m.width, "heads": m.heads, "length": m.length, "layers": m.layers} for m in MODELS
    ],
    **LINKS,
    "model": "BLOOM",
    "ranks": 4,
    "sequences": 2,
    "per_node": JEAN_ZAY.per_node,
    "speed": JEAN_ZAY.busy * JEAN_ZAY.gpu.peak,
}


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "tensor_shards", DATA, label="Shards of a layer") as page:
        yield page


@pytest.mark.parametrize("mode", ["tensor", "kept", "again"])
def test_formulas_are_those_of_the_package(page: Page, mode: str) -> None:
    for index, model in enumerate(MODELS):
        for ranks in (1, 2, 4, 8, 16, 32):
            if model.heads % ranks:
                continue
            for sequences in (1, 3):
                arguments = [DATA, DATA["models"][index], ranks, sequences, mode]
                got = page.evaluate("(a) => tensorLayer(...a)", arguments)
                for key, value in by_the_package(model, ranks, sequences, mode).items():
                    assert got[key] == pytest.approx(value, rel=1e-12), (model.name, ranks, key)


def by_the_package(model: Decoder, ranks: int, sequences: int, mode: str) -> dict[str, float]:
    sequence, again = mode != "tensor", mode == "again"
    size = 2 * sequences * model.length * model.width
    kept = layer_activations(
        model.length, sequences, model.width, model.heads, tensor=ranks, sequence_parallel=sequence
    )
    flops = 3 * (sum(forward_flops(model, sequences).values()) - forward_flops(model, sequences)["head"]) / model.layers
    link = JEAN_ZAY.between if ranks > JEAN_ZAY.per_node else JEAN_ZAY.inside
    inputs = 2 * all_gather_bytes(size, ranks) if mode == "kept" else 0  # two inputs, but for this rank's tokens
    return {
        "held": layer_share(model.width, ranks),
        "whole": model.layer_parameters,
        "sent": layer_bytes(size, ranks, sequence_parallel=sequence, gather_again=again),
        "norms": kept.norms + inputs,
        "products": kept.products,
        "scores": kept.scores,
        "compute": flops / ranks / (JEAN_ZAY.busy * JEAN_ZAY.gpu.peak),
        "messages": (4 + again) * ring_all_reduce_time(size, ranks, link),
    }


def test_it_answers_to_choices_and_clicks(page: Page) -> None:
    figure = page.get_by_role("group", name="Shards of a layer")
    headline = figure.locator("output.value")
    expect(headline).to_have_text("rank 0: heads 0 to 27, hidden units 0 to 14,335")
    figure.get_by_role("button", name="3", exact=True).click()
    expect(headline).to_have_text("rank 3: heads 84 to 111, hidden units 43,008 to 57,343")
    expect(figure).to_contain_text("sends 0.705 GB for it in a step")
    share = figure.locator(".share", has_text="messages")
    inside = int(share.inner_text().split()[-2])
    figure.get_by_label("ranks", exact=False).first.select_option("16")
    expect(figure.locator(".note")).to_contain_text("the group spans 2 machines")
    assert int(share.inner_text().split()[-2]) > 2 * inside
    figure.get_by_label("model").select_option("GPT-3 6.7B")
    expect(figure.locator("svg rect")).to_have_count(6 * 16)
    figure.get_by_label("parallel").select_option("again")
    expect(figure).to_contain_text("keeps")


def test_keyboard_alone_is_enough_and_a_refusal_is_a_sentence(page: Page) -> None:
    figure = page.get_by_role("group", name="Shards of a layer")
    figure.get_by_role("button", name="2", exact=True).press("Enter")
    expect(figure.locator("output.value")).to_contain_text("rank 2")
    assert page.evaluate("document.activeElement.textContent") == "2"
    figure.get_by_label("ranks", exact=False).first.select_option("32")
    expect(figure.locator("output.value")).to_contain_text(
        "112 attention heads cannot be shared by 32 ranks: make a group"
    )
    expect(figure.locator(".share")).to_have_count(0)

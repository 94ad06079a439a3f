"""The interactive figure: its bytes, seconds and choice are those of the package, and it answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.zero.choice import CHOICES, Machine, choose, states, step

DATA = {"billions": 7.5, "ranks": 8, "memory": 70, "hostMemory": 128, "tokens": 8192, "tflops": 150}
DATA |= {"device": 2000, "link": 100, "hostLink": 25, "host": 25}
MACHINES = [Machine(70e9, 64e9, 150e12, 2e12, 100e9, 25e9, 25e9), Machine(20e9, 256e9, 50e12, 1e12, 3e9, 12e9, 50e9)]
MODELS = list(itertools.product((1.3e8, 7.5e9, 1.75e11), (1, 2, 8, 64), (512, 8192)))


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "zero_choice", DATA) as page:
        yield page


@pytest.mark.parametrize("machine", MACHINES)
def test_bytes_seconds_and_choice_are_those_of_the_package(page: Page, machine: Machine) -> None:
    theirs = machine._asdict()
    theirs |= {"hostLink": theirs["host_link"], "hostMemory": theirs["host_memory"]}
    found = page.evaluate(
        """([models, m]) => models.map(([P, n, tokens]) => ({
             rows: SETTINGS.map(s => [s.name, ...stateBytes(s, P, n), ...stepSeconds(s, P, n, tokens, m)]),
             best: chooseSetting(P, n, tokens, m)?.name ?? null }))""",
        [MODELS, theirs],
    )
    assert len(found) == len(MODELS)
    for (parameters, ranks, tokens), got in zip(MODELS, found, strict=True):
        for choice, row in zip(CHOICES, got["rows"], strict=True):
            ours = [*states(choice, parameters, ranks), *step(choice, parameters, ranks, tokens, machine)]
            assert row[0] == choice.name
            assert row[1:] == pytest.approx(ours, rel=1e-12)
        best = choose(parameters, ranks, tokens, machine)
        assert got["best"] == (best.name if best else None)
    assert len({got["best"] for got in found}) >= 3  # the models ask for different settings


def test_it_answers_to_the_keyboard(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, drawing = figure.locator("output.value"), figure.locator("> svg")
    expect(value).to_have_text("take stage 1")
    assert "stage 1: 41.3 GB" in str(drawing.get_attribute("aria-label"))
    memory = figure.get_by_role("slider", name="memory for states")
    for _ in range(2):
        memory.press("ArrowLeft")
    expect(value).to_have_text("take stage 3")
    link = figure.get_by_role("slider", name="link", exact=False).first
    for _ in range(5):
        link.press("ArrowLeft")
    expect(link).to_have_attribute("aria-valuetext", "3 GB/s")
    expect(value).to_have_text("take stage 2 + offload")
    parameters = figure.get_by_role("slider", name="parameters")
    for _ in range(2):
        parameters.press("ArrowRight")
    expect(value).to_have_text("take stage 3 + offloads")
    parameters.press("ArrowRight")  # 70 billion: not even the hosts have room
    expect(value).to_contain_text("nothing fits")

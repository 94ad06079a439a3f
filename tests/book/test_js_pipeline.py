"""The interactive pipeline figure: its schedules and its clock are those of the package, and it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.pipeline import recipes as schedule_recipes
from course_utils.pipeline.schedule import Schedule
from course_utils.pipeline.simulator import Costs, simulate

RECIPES = ("naive", "gpipe", "one_f_one_b", "interleaved", "zero_bubble_h1", "zero_bubble_v")
DATA = {"schedule": "one_f_one_b", "ranks": 4, "microBatches": 8, "chunks": 2, "ratio": 2, "transfer": 0}


def made(recipe: str, ranks: int, micro_batches: int, chunks: int) -> Schedule:
    make: Callable[..., Schedule] = getattr(schedule_recipes, recipe)
    return make(ranks, micro_batches, chunks) if recipe == "interleaved" else make(ranks, micro_batches)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "pipeline", DATA) as page:
        yield page


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("ratio", "transfer"), [(2, 0), (1, 0.75), (2.5, 2)])
def test_timelines_are_those_of_the_simulator(page: Page, recipe: str, ratio: float, transfer: float) -> None:
    for p, m, v in [
        (1, 3, 2),
        (2, 1, 1),
        (2, 6, 3),
        (3, 3, 4),
        (4, 8, 2),
        (4, 7, 1),
        (4, 3, 3),
        (6, 6, 3),
        (8, 1, 4),
        (8, 24, 2),
    ]:
        if recipe == "interleaved" and m > p and m % p:
            continue
        schedule = made(recipe, p, m, v)
        costs = Costs(backward_input=ratio / 2, backward_weight=ratio / 2).split(schedule.chunks)
        want = simulate(schedule, Costs(costs.forward, costs.backward_input, costs.backward_weight, latency=transfer))
        got = page.evaluate("(a) => simulatePipeline(...a)", [recipe, p, m, v, ratio, transfer])
        spans = {(rank, kind, stage, mb): (start, end) for rank, kind, stage, mb, start, end in got["spans"]}
        assert len(spans) == len(got["spans"]) == len(want.spans)
        for rank, action, start, end in want.spans:
            key = (rank, action.kind.value, action.stage, action.micro_batch)
            assert spans[key] == pytest.approx((start, end)), (recipe, p, m, v, key)
        assert got["makespan"] == pytest.approx(want.makespan)
        assert got["fraction"] == pytest.approx(want.bubble_fraction, abs=1e-12)
        assert got["overhead"] == pytest.approx(want.bubble_overhead, abs=1e-12)
        assert got["peaks"] == want.peak_live
        assert got["chunks"] == schedule.chunks


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("p", "m", "v"), [(4, 10, 2), (4, 3, 2), (4, 4, 2), (1, 5, 3), (8, 17, 4), (4, 10, 1)])
def test_sizes_are_refused_in_the_words_of_the_package(page: Page, recipe: str, p: int, m: int, v: int) -> None:
    said = page.evaluate("(a) => pipelineProblem(...a)", [recipe, p, m, v])
    expected = ""
    try:
        made(recipe, p, m, v)
    except ValueError as error:
        expected = str(error)
    assert said == expected


def test_it_answers_to_mouse_and_keyboard(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, note, drawing = figure.locator("output.value"), figure.locator("output.note"), figure.locator("> svg")
    schedule, chunks = figure.get_by_role("combobox", name="schedule"), figure.get_by_label("chunks v")
    batches = figure.get_by_label("micro-batches m")
    expect(value).to_have_text("idle 27.3 % of the step · 37.5 % over the ideal time")
    expect(note).to_have_text("step 33 forwards, ideal 24; live micro-batches, at most, by rank: 4, 3, 2, 1")
    expect(chunks).to_be_disabled()
    assert drawing.locator("text", has_text="B7").count() == 4

    schedule.focus()
    page.keyboard.press("ArrowUp")
    expect(schedule).to_have_value("gpipe")
    expect(note).to_contain_text("by rank: 8, 8, 8, 8")

    schedule.select_option("interleaved")
    expect(chunks).to_be_enabled()
    expect(value).to_have_text("idle 15.8 % of the step · 18.8 % over the ideal time")
    expect(note).to_contain_text("each covers 1/2 of a rank's layers, so 11 weigh as much as 5.5 of all")
    batches.focus()
    page.keyboard.press("ArrowRight")
    assert batches.get_attribute("aria-valuetext") == "9"
    expect(value).to_have_text("no such schedule")
    expect(note).to_contain_text("choose a multiple of 4, such as 8 or 12")
    page.keyboard.press("ArrowLeft")
    figure.get_by_label("transfer").press("ArrowRight")
    expect(value).not_to_contain_text("15.8 %")
    assert drawing.get_attribute("aria-label").endswith(value.inner_text())


def test_kinds_differ_without_colour(page: Page) -> None:
    figure = page.locator(".course-interactive")
    figure.get_by_role("combobox", name="schedule").select_option("zero_bubble_h1")
    kinds = {"F": None, "I": "I", "W": "W"}
    for kind, pattern in kinds.items():
        assert figure.locator("> svg text", has_text=kind + "0").count() == 4
        assert figure.locator(f"pattern[id$='-{kind}']").count() == (pattern is not None)
    assert figure.locator("> svg rect[fill^='url(#pipeline-']").count() == 2 * 4 * 8

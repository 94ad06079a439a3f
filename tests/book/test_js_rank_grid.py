"""The rank grid: its groups are those of the package for any axes, and it answers to mouse and keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.figures.rank_grid import answers
from course_utils.hybrid.cost import JEAN_ZAY
from course_utils.hybrid.grid import Grid
from course_utils.plan.planner import Plan
from course_utils.plan.transformer import BLOOM, GPT3

PLANS = [Plan(model=BLOOM, batch=2048, micro_batch=2, recompute="full"), Plan(model=GPT3, batch=1536)]
START = {"model": "BLOOM", "data": 8, "pipeline": 12, "tensor": 4, "innermost": "tensor", "per_node": 8, "rank": 0}


def grid(data: int, pipeline: int, tensor: int, *order: str) -> Grid:
    return Grid(data=data, pipeline=pipeline, tensor=tensor, order=order or None)


GRIDS = [grid(8, 12, 4), grid(2, 2, 2, "tensor", "pipeline", "data"), grid(2, 4, 3, "pipeline", "data", "tensor")]
GRIDS += [grid(1, 1, 1), grid(16, 6, 8), grid(4, 1, 2, "tensor", "data", "pipeline")]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    sizes = {"data": (1, 4, 8), "pipeline": (1, 4, 12), "tensor": (1, 3, 4)}
    with figure_page(browser, "rank_grid", answers(PLANS, JEAN_ZAY, **sizes) | {"start": START}) as page:
        yield page


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_groups_are_those_of_the_package(page: Page, grid: Grid) -> None:
    sizes, ranks = grid.sizes, range(0, grid.ranks, max(1, grid.ranks // 7))
    found = page.evaluate(
        """([sizes, order, axes, ranks, nodes]) => {
             const grid = makeGrid(sizes, order), each = (list, f) => list.map(item => axes.map(axis => f(item, axis)));
             return [each(ranks, grid.group), each(ranks, grid.place), each(nodes, (n, axis) => grid.crosses(axis, n))];
           }""",
        [sizes, grid.order, list(sizes), list(ranks), nodes := [1, 2, 3, 8, 16]],
    )
    groups, places, crosses = found
    assert groups == [[grid.group(rank, axis) for axis in sizes] for rank in ranks]
    assert places == [list(grid.coordinates(rank).values()) for rank in ranks]
    assert crosses == [[grid.crosses(axis, per_node) for axis in sizes] for per_node in nodes]


def test_it_answers_to_mouse_and_keyboard(page: Page) -> None:
    figure = page.locator(".course-interactive")
    value, note, drawing = figure.locator("output.value"), figure.locator("output.note"), figure.locator("> svg")
    expect(value).to_have_text("8 x 12 x 4 = 384 ranks; rank 0: replica 0, stage 0, slice 0")
    expect(drawing.locator("[data-rank]")).to_have_count(384)
    drawing.locator("[data-rank='57']").click()
    expect(value).to_contain_text("rank 57: replica 1, stage 2, slice 1")
    expect(figure.locator("output.tensor")).to_contain_text(
        "ranks 56, 57, 58, 59; sends 812 GB a step, at 300 GB/s 2.71 s"
    )
    expect(figure.locator("output.pipeline")).to_contain_text(
        "sends 30.1 GB a step, at 6.25 GB/s 4.81 s; leaves the node"
    )
    expect(figure.locator("output.data")).to_contain_text("sends 13 GB a step")
    expect(note).to_contain_text(
        "6 layers of BLOOM on this stage, 3.70 billion parameters on this rank, 128 micro-batches"
    )
    rank = figure.get_by_role("spinbutton", name="rank")
    rank.focus()
    rank.press("ArrowUp")
    expect(value).to_contain_text("rank 58: replica 1, stage 2, slice 2")
    figure.get_by_role("combobox", name="innermost").select_option("data")
    expect(figure.locator("output.tensor")).to_contain_text("leaves the node")
    figure.get_by_role("combobox", name="tensor").first.select_option("3")
    expect(note).to_contain_text("112 heads cannot be divided over 3")
    figure.get_by_role("combobox", name="data").first.select_option("1")
    figure.get_by_role("combobox", name="pipeline").select_option("1")
    expect(value).to_have_text("1 x 1 x 3 = 3 ranks; rank 2: replica 0, stage 0, slice 2")
    expect(figure.locator("output.data")).to_contain_text("sends nothing")


def test_it_takes_any_of_the_axes(browser: Browser) -> None:
    data = answers(PLANS, JEAN_ZAY, tensor=(1, 8), data=(1, 4))
    with figure_page(browser, "rank_grid", data | {"start": START | {"tensor": 8, "data": 4, "rank": 9}}) as page:
        expect(page.locator("output.value")).to_have_text("8 x 4 = 32 ranks; rank 9: slice 1, replica 1")
        assert page.locator("output.pipeline").count() == 0
        page.get_by_role("combobox", name="innermost").select_option("data")
        expect(page.locator("output.data")).to_contain_text("data: ranks 8, 9, 10, 11; sends")

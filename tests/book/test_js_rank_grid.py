"""The interactive figure: its groups and bytes are those of the package, and it answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from figure_page import figure_page
from playwright.sync_api import Browser, Page, expect

from course_utils.hybrid.cost import JEAN_ZAY, described, traffic
from course_utils.hybrid.grid import AXES, Grid
from course_utils.plan.planner import Plan, rank_parameters, stage_layers
from course_utils.plan.transformer import BLOOM, GPT2_XL, GPT3

PLANS = [Plan(model=BLOOM, batch=2048, micro_batch=2, recompute="full"), Plan(model=GPT3, batch=1536)]
PLANS.append(Plan(model=GPT2_XL, batch=512, micro_batch=4))
DATA = {"models": [described(plan) for plan in PLANS], "model": "BLOOM", "order": ",".join(AXES), "rank": 0}
DATA |= {"data": 8, "pipeline": 12, "tensor": 4, "perNode": 8}
DATA |= {"inside": JEAN_ZAY.inside.bandwidth, "between": JEAN_ZAY.between.bandwidth}
GRIDS = [Grid(8, 12, 4), Grid(2, 2, 2, ("tensor", "pipeline", "data")), Grid(2, 4, 3, ("pipeline", "data", "tensor"))]
GRIDS += [Grid(1, 1, 1), Grid(16, 6, 8), Grid(4, 1, 2, ("tensor", "data", "pipeline"))]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with figure_page(browser, "rank_grid", DATA) as page:
        yield page


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_groups_are_those_of_the_package(page: Page, grid: Grid) -> None:
    sizes = {axis: grid.size(axis) for axis in AXES} | {"order": list(grid.order)}
    for rank in range(0, grid.ranks, max(1, grid.ranks // 7)):
        assert page.evaluate("(a) => gridCoordinates(...a)", [sizes, rank]) == list(grid.coordinates(rank))
        for axis in AXES:
            assert page.evaluate("(a) => gridGroup(...a)", [sizes, rank, axis]) == grid.group(rank, axis)
    for axis in AXES:
        for per_node in (1, 2, 3, 8, 16):
            assert page.evaluate("(a) => gridCrosses(...a)", [sizes, axis, per_node]) == grid.crosses(axis, per_node)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.model.name)
def test_bytes_and_refusals_are_those_of_the_package(page: Page, plan: Plan, grid: Grid) -> None:
    sizes = {axis: grid.size(axis) for axis in AXES}
    problem = page.evaluate("(a) => planProblem(...a)", [described(plan), sizes])
    if problem:
        with pytest.raises(ValueError, match=problem):
            Plan(**{**vars(plan), **sizes})
        return
    tried = Plan(**{**vars(plan), **sizes})
    assert page.evaluate("(a) => stageLayers(...a)", [plan.model.layers, grid.pipeline]) == stage_layers(
        plan.model.layers, grid.pipeline
    )
    for stage in range(grid.pipeline):
        got = page.evaluate("(a) => rankTraffic(...a)", [described(plan), sizes, stage])
        assert [got[axis] for axis in AXES] == pytest.approx(list(traffic(tried, stage)), rel=1e-12)
        ends = {"first": stage == 0, "last": stage == grid.pipeline - 1}
        assert got["held"] == rank_parameters(plan.model, got["layers"], tensor=grid.tensor, **ends)


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
    expect(note).to_have_text("112 heads cannot be divided over 3 tensor-parallel ranks")
    figure.get_by_role("combobox", name="data").first.select_option("1")
    figure.get_by_role("combobox", name="pipeline").select_option("1")
    expect(value).to_have_text("1 x 1 x 3 = 3 ranks; rank 2: replica 0, stage 0, slice 2")
    expect(figure.locator("output.data")).to_contain_text("sends nothing")

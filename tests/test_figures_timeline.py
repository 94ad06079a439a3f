"""The drawing of timelines: all actions are there, to scale, and told apart without colour."""

import re

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from course_utils import figures
from course_utils.figures.timeline import HEIGHT, STYLES, timeline
from course_utils.pipeline.recipes import gpipe, interleaved, one_f_one_b, zero_bubble_h1
from course_utils.pipeline.schedule import Action, F
from course_utils.pipeline.simulator import Costs, Span, simulate


def blocks(figure: Figure, panel: int = 0) -> list[Rectangle]:
    rectangles = [p for p in figure.axes[panel].patches if isinstance(p, Rectangle)]
    return [r for r in rectangles if r.get_height() == pytest.approx(HEIGHT)]


def labels(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_every_action_is_a_block_to_scale() -> None:
    run = simulate(one_f_one_b(4, 8), Costs(forward=[1, 2, 1, 1]))
    drawn = sorted((b.get_y() + HEIGHT / 2, b.get_x(), b.get_width()) for b in blocks(timeline({"1F1B": run.spans})))
    want = sorted((s.rank, s.start, s.end - s.start) for s in run.spans)
    assert [round(x, 9) for block in drawn for x in block] == [round(x, 9) for block in want for x in block]


def test_at_the_width_of_the_page_every_block_of_four_ranks_and_eight_micro_batches_is_named() -> None:
    for recipe in (gpipe, one_f_one_b, zero_bubble_h1):
        run = simulate(recipe(4, 8))
        want = sorted(f"{s.action.kind.value}{s.action.micro_batch}" for s in run.spans)
        assert sorted(labels(timeline({recipe.__name__: run.spans}))) == want


def test_labels_that_do_not_fit_are_shortened_then_left_out() -> None:
    run = simulate(interleaved(4, 8, 2), Costs().split(2))
    texts = labels(timeline({"interleaved": run.spans}))
    assert len(texts) == len(run.spans)
    assert {"7", "B7"} <= set(texts)
    assert labels(timeline({"many": simulate(gpipe(2, 200)).spans})) == []


def test_kinds_differ_in_more_than_colour_and_chunks_in_tint() -> None:
    hatches = [hatch for _, hatch, _ in STYLES.values()]
    assert len(set(hatches)) == len(STYLES)
    assert all(colour in figures.PALETTE.values() for colour, _, _ in STYLES.values())
    run = simulate(zero_bubble_h1(2, 3))
    drawn = sorted(
        (patch.get_hatch(), patch.get_x())
        for patch in timeline({"ZB": run.spans}).axes[0].patches
        if isinstance(patch, Rectangle) and patch.get_hatch()
    )
    assert drawn == sorted((STYLES[s.action.kind][1], s.start) for s in run.spans if STYLES[s.action.kind][1])
    figure = timeline({"interleaved": simulate(interleaved(2, 4, 2), Costs().split(2)).spans})
    assert len({block.get_facecolor() for block in blocks(figure)}) == 4  # two kinds, two tints
    assert {block.get_facecolor()[:3] for block in blocks(figure)} == {to_rgb(STYLES[k][0]) for k in list(STYLES)[:2]}
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "paler: a rank's later stages"


def test_schedules_stand_below_each_other_on_one_clock() -> None:
    runs = {"GPipe": simulate(gpipe(2, 3)), "1F1B": simulate(one_f_one_b(3, 3))}
    figure = timeline({name: run.spans for name, run in runs.items()}, unit="s")
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(runs)
    assert {ax.get_xlim() for ax in figure.axes} == {(0, runs["1F1B"].makespan)}
    assert [len(ax.get_yticks()) for ax in figure.axes] == [2, 3]
    assert figure.axes[-1].get_xlabel() == "time (s)"
    assert figure.axes[0].yaxis_inverted()  # rank 0 on top


def test_it_follows_the_page_and_is_small() -> None:
    svg = figures.show(timeline({"ZB-H1": simulate(zero_bubble_h1(4, 8)).spans}), alt="four ranks, little idle").data
    assert not re.search(r"#(000000|ffffff)\b", svg)
    assert ">F7</text>" in svg
    assert len(svg) < 150_000


def test_spans_of_a_run_are_drawn_too_and_none_are_refused() -> None:
    assert len(blocks(timeline({"run": [Span(0, Action(F, 0, 0), 0.0, 0.25)]}, unit="s"))) == 1
    with pytest.raises(ValueError, match="nothing to draw for 'empty'"):
        timeline({"empty": []})
    with pytest.raises(ValueError, match="no schedule at all"):
        timeline({})

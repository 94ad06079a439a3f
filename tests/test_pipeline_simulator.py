"""The simulator against the closed formulas, and against what it means to start as soon as possible."""

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.pipeline.recipes import (
    dualpipe_v,
    gpipe,
    interleaved,
    naive,
    one_f_one_b,
    zero_bubble_h1,
    zero_bubble_v,
)
from course_utils.pipeline.schedule import F, I, Schedule, parts
from course_utils.pipeline.simulator import (
    Costs,
    boundary_bytes,
    bubble_fraction,
    bubble_overhead,
    peak_live_1f1b,
    simulate,
)

many = settings(max_examples=40, deadline=None)  # the machine may be busy
ranks = st.integers(1, 6)
micro_batches = st.integers(1, 13)
seconds = st.floats(0.05, 4)


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-9)


@many
@given(ranks, micro_batches, seconds, seconds, seconds)
def test_gpipe_and_1f1b_take_the_same_time_and_have_the_bubble_of_the_formulas(
    p: int, m: int, f: float, i: float, w: float
) -> None:
    for recipe in (gpipe, one_f_one_b):
        timeline = simulate(recipe(p, m), Costs(f, i, w))
        assert timeline.makespan == near((m + p - 1) * (f + i + w))
        assert timeline.ideal == near(m * (f + i + w))
        assert timeline.bubble_fraction == near(bubble_fraction(p, m)) == near((p - 1) / (m + p - 1))
        assert timeline.bubble_overhead == near(bubble_overhead(p, m)) == near((p - 1) / m)
    assert simulate(one_f_one_b(p, m)).peak_live == peak_live_1f1b(p, m)


@many
@given(ranks, st.integers(1, 4), st.integers(1, 4), seconds, seconds)
def test_interleaving_divides_the_bubble_by_the_chunks(p: int, rounds: int, v: int, f: float, b: float) -> None:
    m = p * rounds
    timeline = simulate(interleaved(p, m, v), Costs(f, b / 2, b / 2).split(v))
    assert timeline.ideal == near(m * (f + b))
    assert timeline.bubble_overhead == near(bubble_overhead(p, m, v)) == near((p - 1) / (m * v))
    assert timeline.bubble_fraction == near(bubble_fraction(p, m, v)) == near((p - 1) / (m * v + p - 1))


@many
@given(st.integers(2, 8), st.integers(1, 7), st.integers(2, 8), seconds, seconds)
def test_with_fewer_micro_batches_than_ranks_chunks_help_less(p: int, m: int, v: int, f: float, b: float) -> None:
    m = min(m, p - 1)
    timeline = simulate(interleaved(p, m, v), Costs(f, b / 2, b / 2).split(v))
    assert timeline.bubble_overhead == near(bubble_overhead(p, m, v))
    assert timeline.bubble_fraction == near(bubble_fraction(p, m, v))
    assert timeline.bubble_overhead >= (p - m) / m - 1e-9, "m micro-batches keep m ranks busy at most"


def test_eight_ranks_and_few_micro_batches() -> None:
    assert [bubble_overhead(8, m, chunks=8) for m in (1, 2, 4)] == [7, 3.0625, 1.09375]
    assert bubble_overhead(8, 4, chunks=2) == 1.375
    assert bubble_fraction(8, 1, chunks=8) == 7 / 8


@many
@given(ranks, micro_batches, seconds, seconds)
def test_naive_uses_one_rank_at_a_time(p: int, m: int, f: float, b: float) -> None:
    timeline = simulate(naive(p, m), Costs(f, b, 0))
    assert timeline.makespan == near(m * p * (f + b))
    assert 1 - timeline.bubble_fraction == near(1 / p)


@many
@given(ranks, micro_batches, seconds, seconds, seconds)
def test_zero_bubble_h1_is_never_slower_than_1f1b_and_has_the_bubble_of_the_paper(
    p: int, m: int, f: float, i: float, w: float
) -> None:
    timeline = simulate(zero_bubble_h1(p, m), Costs(f, i, w))
    assert timeline.makespan <= (m + p - 1) * (f + i + w) * (1 + 1e-9)
    if m >= p and w <= min(f, i):
        assert timeline.bubble_overhead == near((p - 1) * (f + i - w) / (m * (f + i + w)))


@many
@given(ranks, st.integers(0, 10))
def test_v_shaped_schedules_idle_only_at_the_ends(p: int, more: int) -> None:
    for schedule, m in (
        (zero_bubble_v(p, 2 * p - 1 + more), 2 * p - 1 + more),
        (dualpipe_v(p, 2 * p + more), 2 * p + more),
    ):
        assert simulate(schedule).makespan == near(6 * m + p - 1), schedule.name


def test_the_figures_of_the_course() -> None:
    """Four ranks, sixteen micro-batches: 57 for GPipe and 1F1B, with 16 and 4, 3, 2, 1 live; and BLOOM's 12 and 128."""
    all_first, in_turn = simulate(gpipe(4, 16)), simulate(one_f_one_b(4, 16))
    assert all_first.makespan == in_turn.makespan == 57
    assert all_first.peak_live == [16, 16, 16, 16]
    assert in_turn.peak_live == [4, 3, 2, 1]
    for (p, m), idle in {(4, 1): 0.75, (4, 4): 0.4286, (4, 8): 0.2727, (4, 16): 0.1579, (8, 32): 0.1795}.items():
        assert round(simulate(one_f_one_b(p, m)).bubble_fraction, 4) == round(bubble_fraction(p, m), 4) == idle
    bloom = simulate(one_f_one_b(12, 128), Costs(message_bytes=2 * 2048 * 14336 * 2))
    assert round(bloom.bubble_fraction, 4) == 0.0791
    assert round(bloom.bubble_overhead, 4) == 0.0859
    assert bloom.bytes_sent[5] == pytest.approx(30.1e9, rel=2e-3)
    assert bloom.bytes_sent[0] == bloom.bytes_sent[11] == bloom.bytes_sent[5] / 2
    # A multiple of 12 close to 128: interleaving halves the overhead.
    halves = [simulate(interleaved(12, 132, v), Costs().split(v)).bubble_overhead for v in (1, 2)]
    assert halves[0] / halves[1] == pytest.approx(2)


def every_schedule(p: int, m: int) -> list[Schedule]:
    recipes: list[Callable[[int, int], Schedule]] = [naive, gpipe, one_f_one_b, zero_bubble_h1, zero_bubble_v]
    recipes += [dualpipe_v] if m >= 2 * p else []
    recipes += [interleaved] if m % p == 0 else []
    return [recipe(p, m) for recipe in recipes]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 10), st.booleans())
def test_every_action_starts_as_soon_as_it_can_and_no_sooner(random: Random, p: int, m: int, overlap: bool) -> None:
    for schedule in every_schedule(p, m):
        forward, inputs, weights = ([random.uniform(0.05, 4) for _ in range(schedule.stages)] for _ in range(3))
        latency, size = random.uniform(0, 2), random.uniform(0, 3)
        costs = Costs(forward, inputs, weights, message_bytes=size, latency=latency, bandwidth=2.0, overlap=overlap)
        timeline = simulate(schedule, costs)
        finish = {part: span.end for span in timeline.spans for part in parts(span.action)}
        arrival = {transfer.message: transfer.end for transfer in timeline.transfers}
        leaving = {(t.message.stage, t.message.micro_batch, t.message.content): t.end for t in timeline.transfers}
        last = [0.0] * p
        for rank, action, start, end in timeline.spans:
            share = {"F": forward, "I": inputs, "W": weights}
            assert end - start == near(sum(share[part.kind.value][action.stage] for part in parts(action)))
            awaited = schedule.received(action)
            own = [finish[a] for a in schedule.needs(action) if schedule.stage_rank[a.stage] == rank]
            assert start == near(max([last[rank], *own, *([arrival[awaited]] if awaited else [])]))
            last[rank] = end
            content = "activation" if action.kind is F else "gradient"
            if not overlap and action.kind.value != "W":
                last[rank] = leaving.get((action.stage, action.micro_batch, content), end)
        links: dict[tuple[int, int], float] = {}
        for message, start, end in timeline.transfers:
            link = message.source, message.target
            made = finish[F if message.content == "activation" else I, message.stage, message.micro_batch]
            assert start == near(max(made, links.get(link, 0.0)))
            assert end - start == near(latency + size / 2)
            links[link] = start + size / 2


@many
@given(st.integers(2, 6), micro_batches, seconds, seconds, st.floats(0, 3))
def test_transfers_lengthen_gpipe_by_one_trip_there_and_back(p: int, m: int, f: float, b: float, trip: float) -> None:
    costs = Costs(f, b / 2, b / 2, latency=trip)
    assert simulate(gpipe(p, m), costs).makespan == near((m + p - 1) * (f + b) + 2 * (p - 1) * trip)
    assert simulate(naive(p, m), costs).makespan == near(m * (p * (f + b) + 2 * (p - 1) * trip))
    assert simulate(one_f_one_b(p, m), costs).makespan >= simulate(gpipe(p, m), costs).makespan - 1e-9


def test_1f1b_pays_for_transfers_in_the_middle_too() -> None:
    costs = Costs(latency=0.5)
    assert simulate(gpipe(4, 16), costs).makespan == 60
    assert simulate(one_f_one_b(4, 16), costs).makespan > 60


def test_a_narrow_link_sets_the_pace() -> None:
    """Two ranks, one message a forward of 1 s that takes 3 s to send: the second rank gets one every 3 s."""
    timeline = simulate(gpipe(2, 4), Costs(1, 0, 0, message_bytes=6, bandwidth=2))
    forwards = [span.start for span in timeline.spans if span.rank == 1 and span.action.kind is F]
    assert forwards == [4, 7, 10, 13]
    waiting = simulate(gpipe(2, 4), Costs(1, 0, 0, message_bytes=6, bandwidth=2, overlap=False))
    assert [span.start for span in waiting.spans if span.rank == 1 and span.action.kind is F] == [4, 8, 12, 16]


@many
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 3))
def test_bytes_sent_are_those_of_the_formula(p: int, rounds: int, v: int) -> None:
    timeline = simulate(interleaved(p, p * rounds, v), Costs(message_bytes=10))
    assert timeline.bytes_sent == boundary_bytes(p, p * rounds, 10, v)
    assert sum(timeline.bytes_sent) == 2 * (p * v - 1) * p * rounds * 10


def test_uneven_stages_cost_as_much_as_a_bubble() -> None:
    timeline = simulate(one_f_one_b(2, 50), Costs(forward=[1, 2], backward_input=[1, 2], backward_weight=[1, 2]))
    assert timeline.busy == [150, 300]
    assert timeline.bubble_overhead == near((300 + 3) / 225 - 1)  # the slow stage sets the pace, the first fills it


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Costs(forward=-1), "forward is -1, but must be 0 or more"),
        (lambda: Costs(backward_weight=[1, math.nan]), "backward_weight is nan"),
        (lambda: Costs(bandwidth=0), "bandwidth is 0, but must be more than 0"),
        (lambda: Costs(latency=-0.5), "latency is -0.5"),
        (lambda: Costs(message_bytes=-1), "message_bytes is -1"),
        (lambda: Costs(forward=[1.0, 2.0]).split(2), "needs one time for all stages"),
        (lambda: simulate(gpipe(3, 2), Costs(forward=[1.0, 2.0])), "forward gives 2 times, but schedule 'GPipe' has 3"),
        (lambda: bubble_overhead(12, 128, chunks=2), "such as 120 or 132"),
    ],
)
def test_costs_that_make_no_sense_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()

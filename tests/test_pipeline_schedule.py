"""Pipeline schedules as data: what makes one valid, and that the recipes are those that torch really runs."""

from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining import PipelineStage, schedules

from course_utils.pipeline.recipes import (
    dualpipe_v,
    gpipe,
    interleaved,
    naive,
    one_f_one_b,
    zero_bubble_h1,
    zero_bubble_v,
)
from course_utils.pipeline.schedule import Action, B, F, I, Kind, Message, Receive, Schedule, Send, W, reordered, replay

Recipe = Callable[[int, int], Schedule]
PLAIN = (naive, gpipe, one_f_one_b, zero_bubble_h1, zero_bubble_v)
SIZES = [(p, m) for p in (1, 2, 3, 4, 6) for m in (1, 2, 3, 4, 6, 8, 12)]
many = settings(max_examples=40, deadline=None)  # the machine may be busy


def every_schedule(ranks: int, micro_batches: int) -> list[Schedule]:
    made = [recipe(ranks, micro_batches) for recipe in PLAIN]
    if micro_batches % ranks == 0 or micro_batches < ranks:
        made += [interleaved(ranks, micro_batches, chunks) for chunks in (1, 2, 3)]
    if micro_batches >= 2 * ranks:
        made.append(dualpipe_v(ranks, micro_batches))
    return made


# --- the recipes, action by action, against torch.distributed.pipelining (no process is started)

TORCH_KINDS = {
    schedules._ComputationType.FORWARD: F,
    schedules._ComputationType.FULL_BACKWARD: B,
    schedules._ComputationType.BACKWARD_INPUT: I,
    schedules._ComputationType.BACKWARD_WEIGHT: W,
}


def torch_stage(ranks: int, chunks: int = 1, stage: int = 0) -> mock.Mock:
    fake = mock.create_autospec(PipelineStage, instance=True)
    fake.group_rank, fake.group_size, fake.submod = 0, ranks, None
    fake.num_stages, fake.stage_index, fake.is_last = ranks * chunks, stage, False
    for operations in (fake.get_fwd_recv_ops, fake.get_fwd_send_ops, fake.get_bwd_recv_ops, fake.get_bwd_send_ops):
        operations.return_value = []
    return fake


def torch_table(name: str, ranks: int, micro_batches: int, chunks: int) -> tuple[tuple[Action, ...], ...]:
    """The table that a multi-stage schedule of torch executes; a pair that it runs side by side stands in sequence."""
    made = getattr(schedules, name)([torch_stage(ranks, chunks)] * chunks, micro_batches)
    single = [
        [a for entry in made.pipeline_order[r] if entry for a in entry.sub_actions or (entry,)] for r in range(ranks)
    ]
    return tuple(
        tuple(Action(TORCH_KINDS[a.computation_type], a.stage_index, a.microbatch_index) for a in program)
        for program in single
    )


def torch_run(name: str, ranks: int, micro_batches: int) -> tuple[tuple[Action, ...], ...]:
    """What a single-stage schedule of torch calls, in order, when it steps through stages that compute nothing."""
    programs = []
    for rank in range(ranks):
        stage, program = torch_stage(ranks, stage=rank), []
        note = lambda kind, program=program, rank=rank: lambda mb, *_, **__: program.append(Action(kind, rank, mb))  # noqa: E731
        stage.forward_one_chunk.side_effect, stage.backward_one_chunk.side_effect = note(F), note(B)
        made = getattr(schedules, name)(stage, micro_batches, loss_fn=lambda output, target: 0)
        made._initialize_stage = lambda *_, **__: None  # there is no model and no process group to set up
        made._step_microbatches()
        programs.append(tuple(program))
    return tuple(programs)


@pytest.mark.parametrize(("name", "recipe"), [("ScheduleGPipe", gpipe), ("Schedule1F1B", one_f_one_b)])
def test_single_stage_recipes_are_what_torch_runs(name: str, recipe: Recipe) -> None:
    compared = [(p, m) for p, m in SIZES if m >= p]  # with fewer micro-batches than ranks torch refuses 1F1B
    for p, m in compared:
        assert recipe(p, m).programs == torch_run(name, p, m), (p, m)


@pytest.mark.parametrize(
    ("name", "recipe", "chunks"),
    [
        ("ScheduleInterleaved1F1B", lambda p, m: interleaved(p, m, 2), 2),
        ("ScheduleInterleaved1F1B", lambda p, m: interleaved(p, m, 3), 3),
        ("ScheduleInterleavedZeroBubble", zero_bubble_h1, 1),
        ("ScheduleZBVZeroBubble", zero_bubble_v, 2),
        ("ScheduleDualPipeV", dualpipe_v, 2),
    ],
)
def test_multi_stage_recipes_are_the_tables_of_torch(name: str, recipe: Recipe, chunks: int) -> None:
    sizes = [(p, m) for p, m in SIZES if p > 1]
    if "Interleaved1F1B" in name:
        sizes = [(p, m) for p, m in sizes if m % p == 0 or m < p]
    if "ZeroBubble" in name:  # torch deals micro-batches out in m // p rounds, and wants them even
        sizes = [(p, m) for p, m in sizes if m % max(1, m // p) == 0]
    if "DualPipe" in name:
        sizes = [(p, m) for p, m in sizes if m >= 2 * p]
    assert len(sizes) >= 10
    for p, m in sizes:
        assert recipe(p, m).programs == torch_table(name, p, m, chunks), (p, m)


# --- properties that every schedule has


@many
@given(st.integers(1, 5), st.integers(1, 12))
def test_every_schedule_runs_once_through_all(ranks: int, micro_batches: int) -> None:
    for schedule in every_schedule(ranks, micro_batches):
        order = [action for _, action in replay(schedule)]
        assert len(order) == len(set(order)) == sum(map(len, schedule.programs))
        assert len(order) >= 2 * schedule.stages * micro_batches
        done: set[tuple[Kind, int, int]] = set()
        for kind, stage, mb in order:  # written out once more, without `needs`
            if kind is F:
                assert stage == 0 or (F, stage - 1, mb) in done
            elif kind is W:
                assert (I, stage, mb) in done
            else:
                assert (F, stage, mb) in done
                assert stage == schedule.stages - 1 or {(B, stage + 1, mb), (I, stage + 1, mb)} & done
            done.add((kind, stage, mb))


@many
@given(st.integers(1, 5), st.integers(1, 12))
def test_sends_and_receives_follow_from_the_actions(ranks: int, micro_batches: int) -> None:
    for schedule in every_schedule(ranks, micro_batches):
        operations = [(rank, o) for rank in range(ranks) for o in schedule.operations(rank)]
        sent = [o.message for rank, o in operations if isinstance(o, Send) and o.message.source == rank]
        received = [o.message for rank, o in operations if isinstance(o, Receive) and o.message.target == rank]
        assert sorted(sent) == sorted(received)
        assert len(set(sent)) == len(sent)
        crossings = sum(a != b for a, b in zip(schedule.stage_rank, schedule.stage_rank[1:], strict=False))
        assert len(sent) == 2 * crossings * micro_batches


def test_the_operations_of_a_middle_rank() -> None:
    middle = list(one_f_one_b(3, 1).operations(1))
    forth, back = Message("activation", 0, 0, 0, 1), Message("gradient", 2, 0, 2, 1)
    assert middle == [
        Receive(forth),
        Action(F, 1, 0),
        Send(Message("activation", 1, 0, 1, 2)),
        Receive(back),
        Action(B, 1, 0),
        Send(Message("gradient", 1, 0, 1, 0)),
    ]


def test_on_a_v_the_two_stages_of_the_last_rank_send_nothing_to_each_other() -> None:
    schedule = zero_bubble_v(2, 4)
    assert schedule.stage_rank == (0, 1, 1, 0)
    assert schedule.stages_of(1) == [1, 2]
    assert schedule.chunks == 2
    assert schedule.sent(Action(F, 1, 0)) is schedule.received(Action(F, 2, 0)) is None


@many
@given(st.integers(1, 6), st.integers(1, 13))
def test_peak_live_activations(ranks: int, micro_batches: int) -> None:
    rows = range(ranks)
    assert naive(ranks, micro_batches).peak_live() == [1] * ranks
    assert gpipe(ranks, micro_batches).peak_live() == [micro_batches] * ranks
    assert one_f_one_b(ranks, micro_batches).peak_live() == [min(micro_batches, ranks - rank) for rank in rows]
    assert zero_bubble_h1(ranks, micro_batches).peak_live() == [min(micro_batches, ranks)] * ranks
    assert max(zero_bubble_v(ranks, micro_batches).peak_live()) <= 2 * min(ranks, micro_batches)  # halves of a rank
    m = ranks * micro_batches
    for v in (2, 3):
        ahead = [(v - 1) * ranks + 2 * (ranks - 1 - rank) for rank in rows]
        assert interleaved(ranks, m, v).peak_live() == [min(m * v, n + 1) for n in ahead]
    if micro_batches >= 2 * ranks:
        assert set(dualpipe_v(ranks, micro_batches).peak_live()) == {2 * ranks + 1}


# --- how messages may be sent


def test_blocking_sends_hang_all_schedules_that_go_both_ways_at_once() -> None:
    for recipe in (naive, gpipe):
        assert len(replay(recipe(4, 8), blocking_sends=True)) == 64
    for schedule in (one_f_one_b(4, 8), interleaved(4, 8, 2), zero_bubble_h1(4, 8), zero_bubble_v(4, 8)):
        with pytest.raises(ValueError, match="hangs, for each waits for another: rank 0 to send the activation"):
            replay(schedule, blocking_sends=True)


def test_only_v_shaped_schedules_take_messages_out_of_order() -> None:
    for schedule in (naive(4, 8), gpipe(4, 8), one_f_one_b(4, 8), zero_bubble_h1(4, 8), interleaved(4, 8, 2)):
        assert reordered(schedule) == [], schedule.name
    for schedule in (zero_bubble_v(4, 8), dualpipe_v(4, 8)):
        assert {(m.source, m.target) for m in reordered(schedule)}, schedule.name


# --- what is refused, and how


def changed(rank: int, change: Callable[[list[Action]], object], schedule: Schedule | None = None) -> Schedule:
    """1F1B on two ranks with three micro-batches, one rank's program changed."""
    schedule = schedule or one_f_one_b(2, 3)
    programs = [list(program) for program in schedule.programs]
    change(programs[rank])
    return Schedule("broken", tuple(map(tuple, programs)), schedule.stage_rank, schedule.micro_batches)


def swap(first: int, second: int) -> Callable[[list[Action]], None]:
    def change(program: list[Action]) -> None:
        program[first], program[second] = program[second], program[first]

    return change


@pytest.mark.parametrize(
    ("rank", "change", "words"),
    [
        (0, lambda p: p.pop(), "'broken' lacks the backward input of micro-batch 2 at stage 0: add it to rank 0"),
        (1, lambda p: p.pop(0), "lacks the forward of micro-batch 0 at stage 1: add it to rank 1"),
        (
            0,
            lambda p: p.append(Action(F, 0, 1)),
            "rank 0 .* lists the forward of micro-batch 1 at stage 0 a second time",
        ),
        (0, lambda p: p.append(Action(B, 0, 1)), "lists the backward input of micro-batch 1 at stage 0 a second time"),
        (0, lambda p: p.append(Action(W, 0, 1)), "lists the backward weight of micro-batch 1 at stage 0 a second time"),
        (
            0,
            lambda p: p.append(Action(F, 1, 0)),
            "lists the forward of micro-batch 0 at stage 1, but holds the stages 0",
        ),
        (
            0,
            lambda p: p.append(Action(F, 9, 0)),
            "lists the forward of micro-batch 0 at stage 9, but holds the stages 0",
        ),
        (
            1,
            lambda p: p.append(Action(F, 1, 3)),
            "micro-batch 3 at stage 1, but micro-batches run from 0 to 2: drop it",
        ),
        (1, swap(0, 1), "rank 1 .* lists the backward of micro-batch 0 at stage 1 before the forward of micro-batch 0"),
        (
            1,
            lambda p: p.insert(0, p.pop(-2)),
            "each waits for another: rank 0 to receive the gradient of micro-batch 0 at stage 1 from rank 1, "
            "rank 1 to receive the activation of micro-batch 2 at stage 0 from rank 0",
        ),
    ],
)
def test_broken_schedules_are_refused_by_the_action(
    rank: int, change: Callable[[list[Action]], object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        changed(rank, change)


def test_another_order_that_can_run_is_taken() -> None:
    assert changed(0, swap(1, 2)).programs[0][:3] == (Action(F, 0, 0), Action(B, 0, 0), Action(F, 0, 1))


def test_weights_before_inputs_are_refused() -> None:
    schedule = zero_bubble_h1(2, 2)
    where = schedule.programs[0].index(Action(W, 0, 0))
    assert schedule.programs[0][where - 1] == Action(I, 0, 0)
    with pytest.raises(ValueError, match=r"lists the backward weight .* before the backward input of micro-batch 0"):
        changed(0, swap(where - 1, where), schedule)


def test_forgotten_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="lacks the backward weight of micro-batch 1 at stage 0: add it to rank 0"):
        changed(0, lambda program: program.pop(), zero_bubble_h1(2, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: interleaved(4, 10), "10 micro-batches .* 4 ranks .* 8 or 12"),
        (lambda: interleaved(4, 8, 0), "0 chunks"),
        (lambda: dualpipe_v(4, 7), "8 stages .* not 7"),
        (lambda: gpipe(0, 4), "0 ranks"),
        (lambda: zero_bubble_v(2, 0), "0 micro-batches"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: Callable[[], Schedule], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()

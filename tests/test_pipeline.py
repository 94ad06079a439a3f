"""Every schedule gives what a single process gives, in the memory and with the messages that it promises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as theirs
from torch.utils.flop_counter import FlopCounterMode

from course_utils.bench import pipeline as bench
from course_utils.launch import Delay, RankTimeout, launch
from course_utils.measure import Ledger, held
from course_utils.measure.live import LiveMemory
from course_utils.models import TextConfig, TextModel, ViT, ViTConfig
from course_utils.pipeline import Pipeline, on_one_clock, split_into_stages
from course_utils.pipeline.pipeline import Live
from course_utils.pipeline.recipes import (
    dualpipe_v,
    gpipe,
    interleaved,
    naive,
    one_f_one_b,
    zero_bubble_h1,
    zero_bubble_v,
)
from course_utils.pipeline.schedule import Kind, Schedule, replay
from course_utils.pipeline.simulator import Costs, Span, boundary_bytes, simulate
from course_utils.pipeline.stages import stage_layers
from course_utils.pipeline.zero_bubble import SplitBackward

RECIPES: dict[str, Callable[[int, int], Schedule]] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb_h1": zero_bubble_h1,
    "zb_v": zero_bubble_v,
    "dualpipe_v": dualpipe_v,
}
WIDTH, CLASSES = 8, 5
Facts = dict[str, Any]


def make(kind: str, depth: int) -> nn.Module:
    """A model in float64, in which equal means equal to fifteen digits."""
    torch.manual_seed(0)
    if kind == "vit":
        config = ViTConfig(
            image_size=8, patch_size=4, channels=1, width=WIDTH, depth=depth, heads=2, num_classes=CLASSES
        )
        return ViT(config).double()
    if kind == "text":
        sizes: dict[str, Any] = {"vocab_size": 20, "max_length": 9, "num_classes": CLASSES, "pool": "mean"}
        return TextModel(TextConfig(width=WIDTH, depth=depth, heads=2, pooler=False, **sizes)).double()
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(depth)]
    return nn.Sequential(*layers).double()


def batch(kind: str, samples: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(CLASSES, (samples,), generator=generator)
    if kind == "vit":
        return torch.randn(samples, 1, 8, 8, generator=generator).double(), y, {}
    if kind == "text":
        mask = torch.arange(6) < torch.randint(2, 7, (samples, 1), generator=generator)
        return torch.randint(1, 20, (samples, 6), generator=generator), y, {"attention_mask": mask}
    return torch.randn(samples, WIDTH, generator=generator).double(), y, {}


MESSAGE = {"rows": WIDTH, "vit": 5 * WIDTH, "text": 6 * WIDTH}  # numbers per sample at a boundary: tokens x width


def two_steps(kind: str, schedule: Schedule, pipeline_of: Callable[..., Any] = Pipeline) -> Facts:
    """Two steps of SGD with momentum on this rank; what a test may want to know of them."""
    model = make(kind, 2 * schedule.ranks)
    x, y, extra = batch(kind, 2 * schedule.micro_batches)
    pipeline = pipeline_of(model, schedule, F.cross_entropy)
    optimizer = torch.optim.SGD(pipeline.parameters(), lr=0.1, momentum=0.9)
    losses = [pipeline.run(x, y, **extra)]
    optimizer.step()
    optimizer.zero_grad()
    with Ledger(model) as ledger:
        losses.append(pipeline.run(x, y, **extra))
    gradients = {name: p.grad for name, p in pipeline.named_parameters() if p.grad is not None}
    optimizer.step()
    return {
        "losses": [None if loss is None else loss.item() for loss in losses],
        "gradients": gradients,
        "weights": {name: p.detach() for name, p in pipeline.named_parameters()},
        "sent": ledger.wire_bytes(),
        "peak_live": pipeline.peak_live,
        "saved_peak": ledger.saved_peak,
        "saved_after": ledger.saved,
        "held": sum(held(stage).parameters for stage in pipeline.stages.values()),
    }


@functools.cache
def alone(kind: str, depth: int, samples: int) -> Facts:
    """The same two steps in a single process, the batch in one piece."""
    model = make(kind, depth)
    x, y, extra = batch(kind, samples)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(x, **extra), y)
        loss.backward()
        losses.append(loss.item())
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {"losses": losses, "gradients": gradients, "weights": weights, "held": held(model).parameters}


def problems(ranks: Sequence[Facts], schedule: Schedule, kind: str) -> set[str]:
    """What distinguishes a run from a real pipeline that computes what one process computes."""
    single = alone(kind, 2 * schedule.ranks, 2 * schedule.micro_batches)
    found = set()
    losses = [rank["losses"] for rank in ranks if rank["losses"][0] is not None]
    if len(losses) != 1 or losses[0] != pytest.approx(single["losses"], rel=1e-13):
        found.add("losses")
    for what in ("gradients", "weights"):
        together = {name: tensor for rank in ranks for name, tensor in rank[what].items()}
        if set(together) != set(single[what]) or not all(
            torch.allclose(tensor, single[what][name], rtol=1e-11, atol=1e-15) for name, tensor in together.items()
        ):
            found.add(what)
    if sum(rank["held"] for rank in ranks) != single["held"]:
        found.add("held")
    if [rank["peak_live"] for rank in ranks] != schedule.peak_live():
        found.add("live")
    # what cross-entropy saves of its own result stays with a ledger, so leave the rank of the loss out
    if kind == "rows" and any(rank["saved_after"] for rank in ranks if rank["losses"][0] is None):
        found.add("kept")
    message = 2 * MESSAGE[kind] * 8  # two samples of float64
    in_turn = schedule.stage_rank == tuple(range(schedule.ranks)) * schedule.chunks
    promised = simulate(schedule, Costs(message_bytes=message)).bytes_sent
    if in_turn and promised != boundary_bytes(schedule.ranks, schedule.micro_batches, message, schedule.chunks):
        found.add("formula")
    if [rank["sent"] for rank in ranks] != promised:
        found.add("sent")
    return found


@pytest.mark.parametrize(("ranks", "kind"), [(2, "text"), (4, "vit"), (8, "rows")])
def test_every_schedule_equals_one_process(ranks: int, kind: str) -> None:
    """Losses, gradients and weights; bytes sent as by the formula; live activations as by the schedule."""
    schedules = {name: recipe(ranks, 2 * ranks) for name, recipe in RECIPES.items()}
    results = launch(lambda: {name: two_steps(kind, s) for name, s in schedules.items()}, ranks)
    for name, schedule in schedules.items():
        assert problems([rank[name] for rank in results], schedule, kind) == set(), name
    for rank in range(1, ranks - 1):  # the memory that autograd really holds, in activations of one micro-batch
        unit = results[rank]["naive"]["saved_peak"]
        for name in ("gpipe", "1f1b"):
            assert results[rank][name]["saved_peak"] == unit * schedules[name].peak_live()[rank]


class WholeModelEverywhere(Pipeline):
    """Looks like a pipeline, and is the single process on every rank."""

    def __init__(self, model: nn.Module, schedule: Schedule, loss_fn: Any) -> None:
        super().__init__(model, schedule, loss_fn)
        self.whole, self.own = model, self.stages
        self.stages = {0: model}

    def run(self, inputs: Any = None, targets: Any = None, **extra: Any) -> Any:
        self.peak_live = self.schedule.peak_live()[self.rank]
        loss = self.loss_fn(self.whole(inputs, **extra), targets)
        loss.backward()
        return loss.detach() if self.schedule.stages - 1 in self.own else None


class SumOfLosses(Pipeline):
    """Forgets that each micro-batch counts 1/m."""

    def __init__(self, model: nn.Module, schedule: Schedule, loss_fn: Any) -> None:
        super().__init__(model, schedule, lambda output, target: schedule.micro_batches * loss_fn(output, target))


class KeepsActivations(Pipeline):
    """Holds on to what its stages returned, and by that to the graph behind it."""

    def __init__(self, model: nn.Module, schedule: Schedule, loss_fn: Any) -> None:
        super().__init__(model, schedule, loss_fn)
        self.kept: list[Tensor] = []
        for stage in self.stages.values():
            stage.register_forward_hook(lambda _, args, output: self.kept.append(output))


class Work:
    """Stands for a send or a receive under way."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self.wait = wait


def send_and_wait(tensor: Tensor, **where: Any) -> Work:
    dist.send(tensor, **where)
    return Work(lambda: None)


def receive_when_needed(tensor: Tensor, **where: Any) -> Work:
    return Work(lambda: dist.recv(tensor, **where))


def two_blocking_steps(schedule: Schedule) -> Facts:
    with mock.patch.multiple(dist, isend=send_and_wait, irecv=receive_when_needed):
        return two_steps("rows", schedule)


def test_what_only_pretends_is_found() -> None:
    schedule, other = one_f_one_b(4, 8), gpipe(4, 8)
    renamed = Schedule("1F1B", other.programs, other.stage_rank, 8)
    pretenders: dict[str, tuple[Callable[..., Any], Schedule]] = {
        "whole": (WholeModelEverywhere, schedule),
        "sum": (SumOfLosses, schedule),
        "keeps": (KeepsActivations, zero_bubble_h1(4, 8)),
        "renamed": (Pipeline, renamed),
    }
    results = launch(lambda: {n: two_steps("rows", s, p) for n, (p, s) in pretenders.items()}, 4)
    claimed = {name: zero_bubble_h1(4, 8) if name == "keeps" else schedule for name in pretenders}
    found = {name: problems([rank[name] for rank in results], claimed[name], "rows") for name in pretenders}
    assert found == {
        "whole": {"held", "sent"},
        "sum": {"gradients", "weights", "losses"},
        "keeps": {"kept"},
        "renamed": {"live"},
    }


def test_blocking_sends_hang_where_the_replay_says_so() -> None:
    with pytest.raises(ValueError, match="hangs, for each waits for another"):
        replay(one_f_one_b(2, 4), blocking_sends=True)
    replay(gpipe(2, 4), blocking_sends=True)
    launch(lambda: two_blocking_steps(gpipe(2, 4)), 2)
    with pytest.raises(RankTimeout):
        launch(lambda: two_blocking_steps(one_f_one_b(2, 4)), 2, timeout=2)


# --- messages


def test_send_buffers_are_released_on_the_way() -> None:
    def run() -> tuple[int, int]:
        under_way, most, isend = set(), 0, dist.isend

        def watched(tensor: Tensor, **where: Any) -> Work:
            nonlocal most
            work = isend(tensor, **where)
            assert work is not None
            watched_work = Work(lambda: (work.wait(), under_way.remove(watched_work)))
            under_way.add(watched_work)
            most = max(most, len(under_way))
            return watched_work

        with mock.patch.object(dist, "isend", watched):
            pipeline = Pipeline(make("rows", 4), one_f_one_b(4, 24), F.cross_entropy)
            x, y, _ = batch("rows", 24)
            pipeline.run(x, y)
        return most, len(under_way)

    for most, after in launch(run, 4):
        assert 0 < most <= 9, "24 micro-batches, yet no rank has more in flight than run ahead of each other"
        assert after == 0


def test_a_micro_batch_that_waits_for_its_backward_does_not_hold_its_result() -> None:
    layer, x = nn.Linear(8, 1000), torch.randn(4, 8)
    with LiveMemory() as memory:
        result = layer(x)
        live, held_before = Live(x, get_gradient_edge(result), None), memory.now
        del result
        assert memory.now == held_before - 4 * 1000 * 4
        live.backward(torch.ones(4, 1000))


def test_half_precision_uneven_stages_and_two_pipelines_side_by_side() -> None:
    def run() -> tuple[float | None, list[int], set[Any]]:
        rank = dist.get_rank()
        groups = [dist.new_group(ranks) for ranks in ([0, 2], [1, 3])]
        model = make("rows", 5).bfloat16()
        x, y, _ = batch("rows", 8)
        loss_fn = lambda output, target: F.cross_entropy(output.float(), target)  # noqa: E731
        pipeline = Pipeline(model, one_f_one_b(2, 4), loss_fn, layers=[4, 1], group=groups[rank % 2])
        loss = pipeline.run(x.bfloat16() if rank < 2 else None, y if rank >= 2 else None)
        sizes = [len(stage.part) for stage in pipeline.stages.values()]
        return (
            None if loss is None else loss.item(),
            sizes,
            {p.grad.dtype for p in pipeline.parameters() if p.grad is not None},
        )

    results = launch(run, 4)
    assert [sizes for _, sizes, _ in results] == [[4], [4], [1], [1]]
    assert all(dtypes == {torch.bfloat16} for *_, dtypes in results)
    losses = [loss for loss, *_ in results]
    assert losses[:2] == [None, None]
    assert losses[2] == losses[3]
    x, y, _ = batch("rows", 8)
    whole = F.cross_entropy(make("rows", 5).bfloat16()(x.bfloat16()).float(), y).item()
    assert losses[2] == pytest.approx(whole, rel=1e-6)


# --- beside torch.distributed.pipelining


def test_torch_pipelining_gives_the_same() -> None:
    pairs = {
        "Schedule1F1B": one_f_one_b,
        "ScheduleInterleaved1F1B": interleaved,
        "ScheduleZBVZeroBubble": zero_bubble_v,
        "ScheduleDualPipeV": dualpipe_v,
    }

    def torch_run(name: str, ranks: int, m: int) -> tuple[Any, dict[str, Tensor]]:
        order = pairs[name](ranks, m)
        mine, stages = order.stages_of(dist.get_rank()), order.stages
        parts = split_into_stages(make("rows", 4), stages)
        x, y, _ = batch("rows", 2 * m)
        made = [PipelineStage(parts[i], i, stages, torch.device("cpu")) for i in mine]
        schedule = getattr(theirs, name)(made if len(made) > 1 else made[0], m, loss_fn=F.cross_entropy)
        losses: list[Tensor] = []
        wanted = {"target": y, "losses": losses} if stages - 1 in mine else {}
        schedule.step(*[x] * (0 in mine), **wanted)
        gradients = {n: p.grad for i in mine for n, p in parts[i].part.named_parameters()}
        return torch.stack(losses).mean() if losses else None, gradients  # type: ignore[return-value]

    def run() -> None:
        for name, recipe in pairs.items():
            pipeline = Pipeline(make("rows", 4), recipe(2, 4), F.cross_entropy)
            x, y, _ = batch("rows", 8)
            loss = pipeline.run(x, y)
            other, gradients = torch_run(name, 2, 4)
            assert (loss is None) == (other is None), name
            if loss is not None:
                torch.testing.assert_close(loss, other)
            torch.testing.assert_close({n: p.grad for n, p in pipeline.named_parameters()}, gradients)

    launch(run, 2)


# --- the run on the clock


def test_the_timeline_of_a_run_keeps_order_and_times() -> None:
    forward, into, weights = 0.010, 0.008, 0.006

    def run() -> dict[str, list[Span]]:
        found = {}
        for recipe in (naive, zero_bubble_h1):
            layers = [nn.Sequential(nn.Linear(4, 4), Delay(forward, into, weights)) for _ in range(4)]
            pipeline = Pipeline(nn.Sequential(*layers), recipe(4, 4), lambda output, target: output.mean())
            pipeline.run(torch.ones(4, 4), torch.ones(4, 4))
            dist.barrier()
            found[recipe.__name__] = pipeline.spans
        return found

    results = launch(run, 4)
    seconds = {Kind.FORWARD: forward, Kind.BACKWARD_INPUT: into, Kind.BACKWARD_WEIGHT: weights}
    seconds[Kind.BACKWARD] = into + weights
    for schedule in (naive(4, 4), zero_bubble_h1(4, 4)):
        spans = on_one_clock(rank["naive" if schedule.name == "naive" else "zero_bubble_h1"] for rank in results)
        assert spans[0].start == 0
        for rank, program in enumerate(schedule.programs):
            own = [span for span in spans if span.rank == rank]
            assert tuple(span.action for span in own) == program
            assert all(a.end <= b.start for a, b in pairwise(own))
        ends = {span.action: span.end for span in spans}
        for span in spans:
            assert span.end - span.start >= seconds[span.action.kind], span.action
            for needed in schedule.needs(span.action):  # another rank's clock is the same clock
                whole = needed._replace(kind=Kind.BACKWARD) if needed not in ends else needed
                assert ends[whole] <= span.start
        ideal = simulate(schedule, Costs(forward, into, weights)).makespan
        assert max(ends.values()) >= ideal


# --- the backward in two parts, without processes


class Tied(nn.Module):
    """One weight that two layers share, one that is read outside its layer, one layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.twice = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.outside = nn.Linear(6, 6)
        self.free = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).tanh()) + self.free
        return self.outside(self.twice(self.twice(x).tanh())).tanh() @ self.outside.weight


def stages_to_split() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
    frozen[0].requires_grad_(False)
    return {
        "mlp": nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 6)),
        "in place": nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 6)),
        "attention": nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True),
        "tied": Tied(),
        "frozen": frozen,
        "nothing to train": nn.Tanh(),
    }


def forward(stage: nn.Module, x: Tensor, *, split: bool) -> Live:
    with SplitBackward(stage) if split else nullcontext() as record:
        result = stage(x)
    return Live(x, get_gradient_edge(result) if result.requires_grad else None, record)


@pytest.mark.parametrize("name", stages_to_split())
@pytest.mark.parametrize("first", [False, True])
def test_two_parts_make_one_backward(name: str, first: bool) -> None:
    stage = stages_to_split()[name].double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    gradient = torch.randn(3, 4, 6, dtype=torch.float64)

    def gradients(split: bool) -> list[Tensor | None]:
        stage.zero_grad()
        own = x.clone() if first else x.clone().requires_grad_()
        for repeat in range(2):  # gradients add up
            live = forward(stage, own, split=split)
            if live.split is not None:
                of_input = live.backward_input(gradient)
                if name == "mlp" and not repeat:
                    assert not any(p.grad is not None for p in stage.parameters()), "the weights' turn is later"
                live.split.backward_weight()
            else:
                own.grad = None
                of_input = live.backward(gradient)
        return [of_input, *(p.grad for p in stage.parameters())]

    whole, parts = gradients(split=False), gradients(split=True)
    assert (whole[0] is None) == first
    for a, b in zip(whole, parts, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


def test_two_parts_multiply_no_more_than_one() -> None:
    stage = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(4)])
    x, gradient = torch.randn(16, 32, requires_grad=True), torch.randn(16, 32)
    product = 2 * 16 * 32 * 32
    counts = {}
    for split in (False, True):
        live = forward(stage, x, split=split)
        with FlopCounterMode(display=False) as first:
            live.backward_input(gradient) if split else live.backward(gradient)
        with FlopCounterMode(display=False) as second:
            if live.split is not None:
                live.split.backward_weight()
        counts[split] = (first.get_total_flops(), second.get_total_flops())
    assert counts == {False: (8 * product, 0), True: (4 * product, 4 * product)}


# --- splitting a model


@pytest.mark.parametrize("kind", ["rows", "vit", "text"])
@pytest.mark.parametrize("stages", [1, 2, 5, [1, 3, 1]])
def test_stages_in_a_row_are_the_model(kind: str, stages: int | list[int]) -> None:
    model = make(kind, 5)
    names = dict(model.named_parameters())
    x, _, extra = batch(kind, 3)
    want = model(x, **extra)
    parts = split_into_stages(model, stages)
    got = x
    for part in parts:
        got = part(got, **extra)
    assert torch.equal(got, want)
    found = [(name, parameter) for stage in parts for name, parameter in stage.part.named_parameters()]
    assert sorted(name for name, _ in found) == sorted(names)
    assert all(parameter is names[name] for name, parameter in found), "shared, not copied"
    assert torch.equal(model(x, **extra), want), "the model itself is as it was"
    together = {key: value for stage in parts for key, value in stage.part.state_dict().items()}
    assert together.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("layers", "stages", "want"),
    [
        (10, 4, [2, 3, 3, 2]),
        (11, 4, [3, 3, 3, 2]),
        (70, 12, [5, *[6] * 10, 5]),  # as BLOOM was
        (7, 2, [4, 3]),
        (4, 3, [1, 2, 1]),
        (8, 8, [1] * 8),
        (5, 1, [5]),
    ],
)
def test_the_ends_get_the_fewer_layers(layers: int, stages: int, want: list[int]) -> None:
    assert stage_layers(layers, stages) == want
    parts = split_into_stages(nn.Sequential(*(nn.Linear(1, 1) for _ in range(layers))), stages)
    assert [len(stage.part) for stage in parts] == want


class Ids(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


def normed_inside() -> nn.Module:
    model = make("vit", 2)
    model.encoder.add_module("last_norm", nn.LayerNorm(WIDTH))  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: split_into_stages(make("vit", 3), 4), "ViT has 3 layers .* into 4 stages"),
        (lambda: split_into_stages(make("rows", 3), [1, 1]), r"\[1, 1\] .* 2 together, but Sequential has 3"),
        (lambda: split_into_stages(make("rows", 3), [0, 3]), r"\[0, 3\] .* one or more to each stage"),
        (lambda: split_into_stages(make("rows", 3), []), "one or more to each stage"),
        (lambda: split_into_stages(make("rows", 3), 0), "into 0 stages"),
        (lambda: split_into_stages(nn.Linear(2, 2), 2), "Linear has no row of layers"),
        (lambda: split_into_stages(normed_inside(), 2), r"encoder\.last_norm\.weight"),
        (lambda: dualpipe_v(4, 4), "8 stages .* not 4"),
        (lambda: interleaved(4, 6), "4 or 8"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_sentence(build: Callable[[], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        build()


def test_a_parameter_of_two_stages_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"stages 0 and 1 share 0\.weight"):
        split_into_stages(model, [2, 1])
    split_into_stages(nn.Sequential(nn.Sequential(model[0], model[2]), model[1]), 2)


def test_what_does_not_fit_is_said_before_anyone_waits() -> None:
    def said(action: Callable[[], Any]) -> str:
        try:
            action()
        except ValueError as error:
            return str(error)
        return "nothing"

    def run() -> dict[str, str]:
        x, y, _ = batch("rows", 8)
        schedule, rank = one_f_one_b(2, 4), dist.get_rank()
        pipeline = Pipeline(make("rows", 4), schedule, F.cross_entropy)
        texts = {
            "world": said(lambda: Pipeline(make("rows", 4), one_f_one_b(4, 4), F.cross_entropy)),
            "stages": said(lambda: Pipeline(split_into_stages(make("rows", 4), 4), schedule, F.cross_entropy)),
            "batch": said(lambda: pipeline.run(x[:6], y[:6])),
            "small": said(lambda: pipeline.run(x[:3], y[:3])),
            "missing": said(lambda: pipeline.run()),
            "mask": said(lambda: pipeline.run(x, y, attention_mask=torch.ones(7))),
        }
        pipeline.run(x, y)
        if rank == 0:  # alone: it must not send what the other has no room for
            texts["shape"] = said(lambda: pipeline.run(torch.cat([x, x]), y))
            ids = Pipeline([Ids(), nn.Linear(1, 1)], schedule, F.cross_entropy)
            texts["ids"] = said(lambda: ids.run(x))
        return texts

    first, second = launch(run, 2)
    assert "made for 4 ranks, but the group has 2" in first["world"]
    assert "has 2 stages, but the model was split into 4" in first["stages"]
    assert first["batch"].startswith("inputs of 6 samples")
    assert "4 or 8" in first["batch"]
    assert second["batch"].startswith("targets of 6 samples")
    assert "a batch of 4, and drop_last" in first["small"]
    assert first["missing"].startswith("rank 0 holds stage 0 and got no inputs")
    assert second["missing"].startswith("rank 1 holds stage 1 and got no targets")
    assert first["mask"].startswith("attention_mask of 7 samples")
    assert "stage 0 returned [4, 8] of float64 for micro-batch 0, and [2, 8] of float64 before" in first["shape"]
    assert "drop_last=True" in first["shape"]
    assert "stage 0 returned torch.int64" in first["ids"]


def test_a_loss_that_is_no_mean_is_refused() -> None:
    def run() -> None:
        pipeline = Pipeline(make("rows", 1), one_f_one_b(1, 2), functools.partial(F.cross_entropy, reduction="none"))
        pipeline.run(*batch("rows", 4)[:2])

    with pytest.raises(Exception, match=r"loss_fn returned .* shape \[2\]"):
        launch(run, 1)


def test_the_benchmark_compares_equal_steps() -> None:
    """A mismatch of loss or gradients would be an error of the rank that sees it."""
    config = ViTConfig(image_size=32, patch_size=16, channels=1, width=8, depth=4, heads=2, num_classes=3)
    result = bench.measure(config, 8, 3)
    assert result.details["best_reference"] == "torch"
    assert result.goal == 1.10

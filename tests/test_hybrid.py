"""The rank grid, its process groups, and the step that uses all three axes: equal to one process, and sharded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from course_utils.hybrid import HybridParallel, Mesh, average_gradients, axes
from course_utils.hybrid.axes import AXES, Axis, data_traffic, pipeline_traffic, tensor_traffic
from course_utils.hybrid.cost import JEAN_ZAY, memory, search, step_time, traffic
from course_utils.hybrid.grid import Grid, factorisations
from course_utils.launch import RankTimeout, launch
from course_utils.measure import Ledger, SlowLink
from course_utils.measure.communication import Link
from course_utils.models import TextConfig, TextModel, ViT, ViTConfig
from course_utils.pipeline.recipes import gpipe, interleaved, one_f_one_b, zero_bubble_h1
from course_utils.pipeline.schedule import Schedule
from course_utils.plan.flops import vit_parameters
from course_utils.plan.memory import ModelStates
from course_utils.plan.planner import Plan, gpu_memory, layer_share
from course_utils.plan.transformer import GPT2_XL

CONFIG = ViTConfig(image_size=12, patch_size=4, channels=1, width=16, depth=4, heads=4, num_classes=5)
TEXT = TextConfig(width=16, depth=4, heads=4, vocab_size=41, max_length=8, num_classes=5)
TOKENS, BATCH, STEPS, NORM = 10, 16, 2, 0.1
FP64 = ModelStates("FP64", weights=8, gradients=8, master_weights=0, moments=16)
Sizes = tuple[int, int, int]


def named(sizes: Sizes) -> dict[str, int]:
    return dict(zip(("data", "pipeline", "tensor"), sizes, strict=True))


# The grid ----------------------------------------------------------------------------------------------------------

grids = st.permutations(list(AXES)).flatmap(
    lambda order: st.builds(
        lambda sizes: Grid(order=order[: len(sizes)], **dict(zip(order, sizes, strict=False))),
        st.lists(st.integers(1, 3), max_size=len(AXES)),
    )
)  # of any axes, in any order


@given(grids)
def test_every_rank_has_one_place_and_one_group_on_each_axis(grid: Grid) -> None:
    places = [grid.coordinates(rank) for rank in range(grid.ranks)]
    assert len({tuple(place.values()) for place in places}) == grid.ranks
    assert [grid.rank(place) for place in places] == list(range(grid.ranks))
    for axis in grid.sizes:
        groups = grid.groups(axis)
        assert sorted(rank for group in groups for rank in group) == list(range(grid.ranks))
        for group in groups:
            assert len(group) == grid.size(axis)
            assert [places[rank][axis] for rank in group] == list(range(grid.size(axis)))
            others = {tuple(place for other, place in places[rank].items() if other != axis) for rank in group}
            assert len(others) == 1
            assert all(grid.group(rank, axis) == group for rank in group)


@given(grids)
def test_the_last_axis_of_the_order_runs_fastest(grid: Grid) -> None:
    box = torch.arange(grid.ranks).view([grid.size(axis) for axis in grid.order])
    for axis in grid.sizes:
        by_reshape = box.movedim(grid.order.index(axis), -1).reshape(-1, grid.size(axis)).tolist()
        assert sorted(grid.groups(axis)) == sorted(by_reshape)


@given(grids, st.integers(1, 9))
def test_an_axis_crosses_where_a_group_has_ranks_on_two_machines(grid: Grid, per_node: int) -> None:
    for axis in grid.sizes:
        machines = [{rank // per_node for rank in group} for group in grid.groups(axis)]
        assert grid.crosses(axis, per_node) == any(len(one) > 1 for one in machines)


def test_which_axes_leave_the_machine() -> None:
    bloom = {"data": 8, "pipeline": 12, "tensor": 4}
    assert [Grid(**bloom).crosses(axis, 8) for axis in bloom] == [True, True, False]
    assert Grid(order=("tensor", "pipeline", "data"), **bloom).crosses("tensor", 8)
    assert not Grid(data=2, pipeline=2, tensor=2).crosses("pipeline", 4)
    assert Grid(tensor=3).crosses("tensor", 2)


def test_factorisations_are_all_and_each_once() -> None:
    for ranks, count in [(1, 1), (8, 10), (384, 108)]:
        found = [tuple(grid.sizes.values()) for grid in factorisations(ranks)]
        assert len(set(found)) == len(found) == count
        assert all(a * b * c == ranks for a, b, c in found)
    assert [str(grid) for grid in factorisations(4, ["data", "tensor"])] == ["1 x 4", "2 x 2", "4 x 1"]


CUBE = {"data": 2, "pipeline": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Grid(**{**CUBE, "data": 0}), "data=0"),
        (lambda: Grid(order=("data", "tensor"), **CUBE), "each of .*'pipeline'"),
        (lambda: Grid(order=("data", "data", "tensor"), **CUBE), "each of .*'pipeline'"),
        (lambda: Grid(**CUBE).coordinates(8), "rank 8 .* 0 to 7"),
        (lambda: Grid(**CUBE).rank({"data": 0, "pipeline": 2, "tensor": 0}), "pipeline 2 .* 0 to 1"),
        (lambda: Grid(**CUBE).size("sideways"), "'sideways' .* data, pipeline, .*tensor"),
        (lambda: Grid(sideways=2), "'sideways' .* data, pipeline, .*tensor"),
    ],
)
def test_wrong_grids_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


ECHO = Axis(
    name="echo", order=15, letter="E", colour="sky", place="echo", divides="activations",
    traffic=lambda plan, stage: 1000.0 * (plan.ranks("echo") - 1),
    memory=lambda memory, plan: memory._replace(activations=memory.activations / plan.ranks("echo")),
)  # fmt: skip


def test_a_new_axis_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An axis that nobody has heard of, between pipeline and tensor: nothing but the table changes."""
    monkeypatch.setitem(AXES, "echo", ECHO)
    grid = Grid(tensor=2, echo=3, data=4)
    assert (str(grid), grid.order, grid.ranks) == ("4 x 3 x 2", ("data", "echo", "tensor"), 24)
    assert grid.coordinates(9) == {"data": 1, "echo": 1, "tensor": 1}
    assert grid.group(9, "echo") == [7, 9, 11]
    assert grid.described(9) == "replica 1, echo 1, slice 1"
    plan = Plan(model=GPT2_XL, batch=8, data=2, further={"echo": 4})
    assert plan.gpus == 8
    assert traffic(plan, 0)["echo"] == 3000
    assert list(traffic(plan, 0)) == ["data", "echo"]
    assert memory(plan).activations == gpu_memory(plan).activations / 4
    assert step_time(plan, JEAN_ZAY).axes["echo"] == 3000 / JEAN_ZAY.inside.bandwidth
    found = list(search(Plan(model=GPT2_XL, batch=8), JEAN_ZAY, 4, axes=("data", "echo")))
    assert [str(candidate.grid) for candidate in found] == ["1 x 4", "2 x 2", "4 x 1"]
    assert [candidate.plan.ranks("echo") for candidate in found if candidate.plan] == [4, 2, 1]


def test_a_new_axis_has_groups_of_real_processes() -> None:
    def run() -> tuple[str, list[int], dict[str, float]]:
        axes.AXES["echo"] = ECHO  # by way of its module: a name of this file would reach the rank as a copy
        mesh = Mesh(data=2, echo=2)
        with Ledger() as ledger:
            dist.all_reduce(torch.zeros(10), group=mesh.group("echo"))
            dist.all_reduce(torch.zeros(10), group=mesh.group("tensor"))  # an axis that the mesh lacks: alone
        return repr(mesh), dist.get_process_group_ranks(mesh.group("echo")), mesh.sent(ledger)

    ranks = launch(run, 4)
    assert [group for _, group, _ in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert all(sent == {"data": 0, "echo": 40} for *_, sent in ranks)
    assert ranks[3][0] == "Mesh(2 x 2; this rank: replica 1, echo 1)"


# Real processes ----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One layout to try, on as many ranks as the product of its sizes."""

    sizes: Sizes
    schedule: Callable[[int], Schedule] = lambda p: one_f_one_b(p, 4)
    order: tuple[str, ...] = ("data", "pipeline", "tensor")
    layers: tuple[int, ...] | None = None
    text: bool = False


CASES = {
    2: [Case((2, 1, 1)), Case((1, 2, 1)), Case((1, 1, 2))],
    4: [Case((2, 2, 1)), Case((2, 1, 2)), Case((1, 2, 2), layers=(1, 3)), Case((1, 4, 1)), Case((1, 1, 4))],
    8: [
        Case((2, 2, 2)),
        Case((2, 2, 2), order=("tensor", "pipeline", "data")),
        Case((2, 2, 2), order=("pipeline", "data", "tensor")),
        Case((2, 2, 2), schedule=lambda p: interleaved(p, 4, 2)),
        Case((2, 2, 2), schedule=lambda p: zero_bubble_h1(p, 4)),
        Case((2, 2, 2), text=True),
        Case((4, 2, 1)),
        Case((1, 2, 4), schedule=lambda p: gpipe(p, 4)),
        Case((2, 1, 4)),
        Case((1, 4, 2)),
    ],
}


def batches(text: bool = False) -> list[tuple[Tensor, Tensor]]:
    """The same on every rank and in the single process."""
    g = torch.Generator().manual_seed(1)
    found = []
    for _ in range(STEPS):
        x = (
            torch.randint(1, 41, (BATCH, 8), generator=g)
            if text
            else torch.randn(BATCH, 1, 12, 12, generator=g).double()
        )
        found.append((x, torch.randint(0, 5, (BATCH,), generator=g)))
    return found


def build(text: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return (TextModel(TEXT) if text else ViT(CONFIG)).double()


def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-6)


class Outcome(NamedTuple):
    """What one rank has to say of a case."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]  # of the whole model, from rank 0 alone
    own: str  # a digest of the weights that this rank holds
    held: int  # how many those are
    sent: dict[str, float]
    place: Sizes


def train(case: Case, wrap: Callable[..., Any] = HybridParallel) -> Outcome:
    mesh = Mesh(order=case.order, **named(case.sizes))
    schedule = case.schedule(case.sizes[1])
    model = wrap(build(case.text), mesh, schedule, F.cross_entropy, layers=case.layers)
    optimizer, losses, norms = optimizer_of(model.parameters()), [], []
    for x, y in batches(case.text):
        optimizer.zero_grad()
        with Ledger() as ledger:
            losses.append(model.step(x, y))
        norms.append(model.clip(NORM))
        optimizer.step()
    digest, held = hashlib.sha256(), 0
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
        held += parameter.numel()
    weights = model.full_state_dict()
    return Outcome(
        losses, norms, weights if dist.get_rank() == 0 else {}, digest.hexdigest(), held, mesh.sent(ledger),
        tuple(mesh.coordinates.values()),  # type: ignore[arg-type]
    )  # fmt: skip


def on_one_process(text: bool = False) -> tuple[list[float], list[float], dict[str, Tensor]]:
    model = build(text)
    optimizer, losses, norms = optimizer_of(model.parameters()), [], []
    for x, y in batches(text):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), NORM)))
        optimizer.step()
    return losses, norms, model.state_dict()


@pytest.fixture(scope="module")
def alone() -> dict[bool, Any]:
    return {text: on_one_process(text) for text in (False, True)}


@pytest.fixture(scope="module", params=[2, 4, 8])
def trained(request: pytest.FixtureRequest) -> list[tuple[Case, list[Outcome]]]:
    """All cases of one world size, in one launch."""

    def run() -> list[Outcome]:
        return [train(case) for case in CASES[dist.get_world_size()]]

    ranks = launch(run, request.param)
    return [(case, [rank[i] for rank in ranks]) for i, case in enumerate(CASES[request.param])]


def test_equal_to_one_process(trained: list[tuple[Case, list[Outcome]]], alone: dict[bool, Any]) -> None:
    """Losses, gradient norms (before clipping) and the weights after two clipped AdamW steps, in float64."""
    for case, ranks in trained:
        losses, norms, weights = alone[case.text]
        for rank in ranks:
            assert rank.losses == pytest.approx(losses, rel=1e-12), case
            assert rank.norms == pytest.approx(norms, rel=1e-10), case
        assert ranks[0].weights.keys() == weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(ranks[0].weights[name], tensor, rtol=0, atol=1e-10)
        assert min(norms) > NORM, "clipping has to have something to do"


def test_replicas_are_twins_bit_by_bit(trained: list[tuple[Case, list[Outcome]]]) -> None:
    for case, ranks in trained:
        by_place: dict[tuple[int, int], set[str]] = {}
        for rank in ranks:
            by_place.setdefault(rank.place[1:], set()).add(rank.own)
        assert all(len(own) == 1 for own in by_place.values()), case
        different = {own for all_own in by_place.values() for own in all_own}
        assert len(different) == case.sizes[1] * case.sizes[2], "stages and slices hold different numbers"


def expected_held(case: Case, stage: int) -> int:
    """Parameters of a rank, by formula."""
    parts = vit_parameters(CONFIG)
    layers = case.layers[stage] if case.layers else CONFIG.depth // case.sizes[1]
    if case.schedule(case.sizes[1]).chunks > 1:
        assert CONFIG.depth % (2 * case.sizes[1]) == 0
    held = layers * layer_share(CONFIG.width, case.sizes[2])
    first = parts["patch"] + parts["tokens"] + parts["positions"]
    return held + (stage == 0) * first + (stage == case.sizes[1] - 1) * (parts["head"] + 2 * CONFIG.width)


def expected_sent(case: Case, stage: int) -> dict[str, float]:
    """Bytes of a rank in a step, by formula; float64 numbers, four micro-batches."""
    schedule = case.schedule(case.sizes[1])
    data, stages, tensor = case.sizes
    message = BATCH // data // 4 * TOKENS * CONFIG.width * 8
    layers = case.layers[stage] if case.layers else CONFIG.depth // stages
    sends = Counter(schedule.stage_rank[s] for s in range(schedule.stages - 1))  # forward, to the next stage
    sends.update(schedule.stage_rank[s] for s in range(1, schedule.stages))  # backward, to the previous
    pipeline = sends[stage] * 4 * message
    if schedule.chunks == 1:
        assert pipeline == pipeline_traffic(message, 4, stage, stages)
    return {
        "data": data_traffic(expected_held(case, stage), data, FP64),
        "pipeline": pipeline if stages > 1 else 0,
        "tensor": tensor_traffic(message, layers, 4, tensor),
    }


def check_sharded(case: Case, ranks: list[Outcome]) -> None:
    """What a rank that only pretends to share the work cannot fulfil: it holds its part, and sends what that costs."""
    for rank in ranks:
        assert rank.held == expected_held(case, rank.place[1])
        for axis, formula in expected_sent(case, rank.place[1]).items():
            assert rank.sent[axis] == pytest.approx(formula, rel=0.02), axis
            assert abs(rank.sent[axis] - formula) <= 16, f"{axis}: exact, but for the loss's own 8 bytes"


def test_each_rank_holds_its_part_and_sends_what_the_formula_says(trained: list[tuple[Case, list[Outcome]]]) -> None:
    for case, ranks in trained:
        if not case.text:
            check_sharded(case, ranks)


class Pretender:
    """Equal to one process in every number, and no hybrid at all: each rank has all layers and the whole batch."""

    def __init__(self, model: nn.Module, mesh: Mesh, *_: Any, **__: Any) -> None:
        self.model = model

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def step(self, x: Tensor, y: Tensor) -> float:
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        average_gradients(self.parameters())
        return loss.item()

    def clip(self, norm: float) -> float:
        return float(nn.utils.clip_grad_norm_(self.parameters(), norm))

    def full_state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()


def test_what_cannot_be_is_said_and_what_only_pretends_is_found(alone: dict[bool, Any]) -> None:
    """One launch for all that needs eight ranks and no training to speak of."""

    def run() -> dict[str, Any]:
        found: dict[str, Any] = {"pretender": train(Case((2, 2, 2)), Pretender)}
        for sizes in [(2, 2, 2), (1, 2, 4), (4, 1, 2), (8, 1, 1)]:
            theirs, mine = init_device_mesh("cpu", sizes, mesh_dim_names=tuple(named(sizes))), Mesh(**named(sizes))
            for axis in named(sizes):
                found.setdefault("torch", []).append(
                    dist.get_process_group_ranks(theirs.get_group(axis))
                    == dist.get_process_group_ranks(mine.group(axis))
                    == mine.grid.group(dist.get_rank(), axis)
                    and theirs.get_local_rank(axis) == mine.place(axis)
                )
        mesh = Mesh(**CUBE)
        found["repr"] = repr(mesh)
        wide = ViTConfig(image_size=12, patch_size=4, channels=1, width=15, depth=1, heads=3, num_classes=5)
        loss = F.cross_entropy
        short = HybridParallel(build(), mesh, one_f_one_b(2, 4), loss)
        x, y = batches()[0]
        tries: dict[str, Callable[[], Any]] = {
            "world": lambda: Mesh(data=2, pipeline=2, tensor=4),
            "heads": lambda: HybridParallel(ViT(wide), mesh, one_f_one_b(2, 4), loss),
            "layers": lambda: HybridParallel(ViT(ViTConfig.preset("micro4", depth=1)), mesh, one_f_one_b(2, 4), loss),
            "schedule": lambda: HybridParallel(build(), mesh, one_f_one_b(4, 4), loss),
            "batch": lambda: short.step(x[:15], y[:15]),
            "micro-batches": lambda: short.step(x[:12], y[:12]),
            "no gradient": lambda: average_gradients(short.parameters()),
        }
        for name, attempt in tries.items():
            try:
                attempt()
            except (ValueError, RuntimeError) as error:
                found[name] = str(error)
        with SlowLink(4, Link(1e-3, 1e6)) as link:  # ranks 0-3 on one node, 4-7 on the other
            for axis in ("tensor", "pipeline", "data"):
                dist.all_reduce(torch.zeros(1000), group=mesh.group(axis))
                found.setdefault("slept", []).append(link.seconds)
            if dist.get_rank() in (0, 4):
                message = torch.zeros(500)
                dist.send(message, 4) if dist.get_rank() == 0 else dist.recv(message, 0)
            found["slept"].append(link.seconds)
        return found

    ranks = launch(run, 8)
    pretender = [rank["pretender"] for rank in ranks]
    assert pretender[0].losses == pytest.approx(alone[False][0], rel=1e-12)  # it is right, and useless
    with pytest.raises(AssertionError):
        check_sharded(Case((2, 2, 2)), pretender)
    first = ranks[0]
    assert all(all(rank["torch"]) for rank in ranks)
    assert first["repr"] == "Mesh(2 x 2 x 2; this rank: replica 0, stage 0, slice 0)"
    assert "2 x 2 x 4 = 16 ranks, but 8 were started" in first["world"]
    assert "3 attention heads" in first["heads"]
    assert "1 layers" in first["layers"]
    assert "2 stages" in first["layers"]
    assert "4 ranks" in first["schedule"]
    assert "a batch of 15" in first["batch"]
    assert "2 replicas" in first["batch"]
    assert "6" in first["micro-batches"]
    assert "4" in first["micro-batches"]
    assert "no gradient" in first["no gradient"]
    reduced = 2 * 1e-3 + 4000 / 1e6  # two messages in a row, and 2 (N-1)/N S = S bytes, in a group of two
    sent = 1e-3 + 2000 / 1e6
    assert first["slept"] == pytest.approx([0, 0, reduced, reduced + sent])
    assert ranks[4]["slept"] == pytest.approx([0, 0, reduced, reduced])  # who receives only waits


def test_a_group_made_by_its_members_alone_hangs() -> None:
    """Why every rank has to make every group: the popular mistake, seen by the launcher."""

    def run() -> None:
        if dist.get_rank() in (0, 3):
            dist.new_group([0, 3])
        dist.new_group([0, 1])

    with pytest.raises(RankTimeout, match="rank"):
        launch(run, 4, timeout=2, show=False)

"""ZeRO takes data parallelism's steps at every stage, holds and sends what the formulas say, and survives its ranks."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from course_utils import sealed
from course_utils.bench import zero as bench
from course_utils.launch import launch
from course_utils.measure import Ledger
from course_utils.models.vit import ViTConfig
from course_utils.training.muon import Muon
from course_utils.zero import cost as estimate
from course_utils.zero import load_shards, save_shards, zero
from course_utils.zero.checkpoint import KIND
from course_utils.zero.stage_3 import Stage3
from course_utils.zero.stages import Stage2, Zero
from course_utils.zero.trace import UnitEvent, UnitTrace
from course_utils.zero.units import Unit, all_gather

ADAMW = functools.partial(torch.optim.AdamW, lr=0.01)
STEPS = 10
SETTINGS: list[dict[str, Any]] = [{"stage": 0}] + [{"stage": s, "offload": o} for s in (1, 2, 3) for o in (False, True)]


class Odd(nn.Module):
    """Everything that is not plain about parameters: tied, frozen, used twice, unused, odd sizes, no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 30)
        self.frozen = nn.Linear(30, 30).requires_grad_(False)
        self.hidden = nn.ModuleList([nn.Linear(30, 30) for _ in range(5)])
        self.hidden[1].requires_grad_(False)
        self.hidden[3].bias.requires_grad_(False)
        self.hidden.append(nn.Linear(3, 5))  # never used
        self.scale = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(30, 11)
        self.out.weight = self.embedding.weight  # tied
        nn.init.normal_(self.out.weight, std=0.2)
        self.register_buffer("offset", torch.randn(30))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.frozen(self.embedding(ids)) + self.offset  # [B, N, 30]
        for layer in (*self.hidden[:5], self.hidden[0]):
            x = x + layer(x).tanh()
        return self.out(self.scale * x.mean(1))  # [B, 11]


class Plain(nn.Module):
    """Layers of one size, most of the parameters in them."""

    def __init__(self, width: int = 96, depth: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.hidden = nn.ModuleList([nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)])
        self.last = nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.hidden:
            x = x + layer(x)
        return self.last(x)


def part_of_batch(size: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(11, (size, 5), generator=generator), torch.randint(11, (size,), generator=generator)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    return ids.chunk(ranks)[rank], labels.chunk(ranks)[rank]


def global_means(losses: list[float]) -> list[float]:
    total = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


def one_step(model: nn.Module, later: Callable[[], Any], micro_batches: int) -> float:
    """Forward and backward of all micro-batches of a step; the mean loss on this rank."""
    ids, labels = part_of_batch()
    mean, pieces = 0.0, list(zip(ids.chunk(micro_batches), labels.chunk(micro_batches), strict=True))
    for number, (x, y) in enumerate(pieces, start=1):
        with later() if number < micro_batches else contextlib.nullcontext():
            loss = F.cross_entropy(model(x).float(), y) / micro_batches
            loss.backward()
        mean += loss.item()
    return mean


def train(model: Zero, micro_batches: int = 1, steps: int = STEPS) -> tuple[list[float], list[Any]]:
    """Losses and norms of some steps."""
    found = [(one_step(model, model.accumulating, micro_batches), model.step()) for _ in range(steps)]
    losses, norms = zip(*found, strict=True)
    return global_means(list(losses)), list(norms)


def train_ddp(clip: float, micro_batches: int) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """torch's own way."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Odd(), find_unused_parameters=True)
    optimizer = ADAMW([p for p in model.parameters() if p.requires_grad])
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(one_step(model, model.no_sync, micro_batches))
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip).item())
        optimizer.step()
    return global_means(losses), norms, model.module.state_dict()


def difference(one: Iterable[float], other: Iterable[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_takes_the_steps_of_ddp(ranks: int) -> None:
    def run() -> dict[str, Any]:
        found = {}
        for micro_batches, settings in ((1, SETTINGS[::2]), (3, SETTINGS))[ranks // 4 :]:
            expected, norms, weights = train_ddp(0.5, micro_batches)
            for setting in settings:
                torch.manual_seed(dist.get_rank())  # rank 0's weights count
                model = zero(Odd(), ADAMW, **setting, clip=0.5)
                losses, own_norms = train(model, micro_batches)
                state = model.full_state_dict()
                assert state.keys() == weights.keys()
                unused = {k for k in state if k.startswith("hidden.5.")}  # DDP's has no gradient: it does not decay
                apart = max((state[k] - weights[k]).abs().max().item() for k in state.keys() - unused)
                falls = losses[-1] < losses[0] - 0.1
                found[f"{micro_batches} {setting}"] = (
                    difference(losses, expected), difference(own_norms, norms), apart, falls, max(norms) > 0.5
                )  # fmt: skip
        return found

    for result in launch(run, ranks):
        assert len(result) == (11 if ranks == 2 else 7)
        for name, (losses, norms, weights, falls, clipped) in result.items():
            assert losses < 1e-6, name
            assert norms < 1e-5, name
            assert weights < 1e-5, name
            assert falls, name
            assert clipped, name


@pytest.fixture(scope="module")
def warm() -> None:
    """The first launch starts the server of processes, which stays."""
    launch(dist.get_rank, 2)


def test_no_process_port_shared_memory_or_file_is_left(warm: None, nothing_left: None) -> None:
    def run() -> float:
        return train(zero(Odd(), ADAMW, 3, offload=True))[0][-1]

    assert len(set(launch(run, 2))) == 1


def measure(precision: str) -> dict[str, Any]:
    """Bytes held between backward and step, and sent in a step, for every setting; and an independent count of both."""
    x, found = torch.randn(8, 8), {}
    for setting in SETTINGS:
        forget_storages()
        model = zero(Plain(), ADAMW, precision=precision, **setting)  # type: ignore[arg-type]
        model(x).square().mean().backward()
        model.step()  # makes the optimizer's state
        with Ledger() as ledger:
            model(x).square().mean().backward()
            held, host = model.held(), model.held_on_host()
            live = live_storages(held.total + host.total)
            model.step()
        sent = {row.operation: row.wire for row in ledger.sent()}
        found[str(setting)] = {"held": held, "host": host, "live": live, "sent": sent}
        found["parameters"] = sum(unit.size for unit in model.units)
        del model
    return found


def forget_storages() -> None:
    """Count from here, and begin with the same numbers."""
    torch.manual_seed(0)
    gc.collect()
    gc.freeze()


def live_storages(expected: int) -> int:
    """Bytes of all tensors that Python has come to see since, whoever made them.

    The thread of gloo that ends a collective lets go of its tensors a moment after the rank that waited goes on: where
    there is more than expected, it gets some seconds to do so.
    """
    end = time.monotonic() + 5
    while True:
        tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
        found = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
        del tensors
        if found <= 1.015 * expected or time.monotonic() > end:
            return found
        time.sleep(0.01)


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_are_those_of_the_formulas(ranks: int) -> None:
    def run() -> dict[str, Any]:
        return {precision: measure(precision) for precision in ("fp32", "bf16")}

    for result in launch(run, ranks):
        for precision, found in result.items():
            for setting in SETTINGS:
                measured = found[str(setting)]
                device, host = estimate.states_per_rank(found["parameters"], ranks, precision=precision, **setting)
                assert measured["held"] == pytest.approx(device, rel=0.02), (precision, setting)
                assert measured["host"] == pytest.approx(host, rel=0.02), (precision, setting)
                # The count by hand also sees counters of steps and buffers of this test.
                assert measured["live"] == pytest.approx(device.total + host.total, rel=0.02), (precision, setting)
                sent = estimate.sent_per_rank(found["parameters"], ranks, setting["stage"], precision=precision)
                assert measured["sent"] == pytest.approx(sent, rel=0.02), (precision, setting)


def test_accumulation_costs_stage_2_and_3_traffic_and_the_others_none() -> None:
    def run(stage: int) -> tuple[dict[str, float], int, float]:
        model = zero(Plain(), ADAMW, stage)
        with Ledger() as ledger:
            for number in range(4):
                with model.accumulating() if number < 3 else contextlib.nullcontext():
                    model(torch.randn(2, 8)).square().mean().backward()
            gradients = model.held().gradients
            model.step()
        size = sum(unit.size for unit in model.units)
        return {r.operation: r.wire for r in ledger.sent() if r.payload > 8}, size, gradients / (4 * size)

    for stage in estimate.STAGES:
        sent, size, share = launch(run, 2, stage)[0]
        assert sent == pytest.approx(
            estimate.sent_per_rank(size, 2, stage, precision="fp32", micro_batches=4), rel=0.02
        )
        assert share == pytest.approx(1 if stage < 2 else 1 / 2, rel=0.02)


# What makes it ZeRO, and not something that only gives the right numbers --------------------------------------------


def check_properties(wrap: Callable[[nn.Module], Zero]) -> dict[str, bool]:
    """One model that claims stage 3, judged from outside: by all tensors that live in this process."""
    forget_storages()
    module = Plain()
    whole, layer = sum(p.nbytes for p in module.parameters()), sum(p.nbytes for p in module.hidden[0].parameters())
    ends = whole - layer * len(module.hidden)
    own = dict(module.named_parameters())
    storages: list[int] = []  # bytes of weights and their gradients, while each layer computes

    def look(*_: Any) -> None:
        live = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in own.values()}
        storages.append(sum(live.values()))

    for part in module.hidden:
        part.register_forward_hook(look)
        part.register_full_backward_pre_hook(look)
    model = wrap(module)
    x, ranks = torch.randn(4, 8), dist.get_world_size()
    losses = []
    for _ in range(3):
        loss = model(x).square().mean()
        losses.append(loss.item())
        loss.backward()
        model.step()
    del loss
    gc.collect()
    rest = live_storages(model.held().total)
    moments = [v for s in model.optimizer.state.values() for v in s.values() if v.dim()]
    return {
        "trains": losses[2] < losses[0],
        "optimizer state is sharded": sum(m.nbytes for m in moments) < 1.05 * 2 * whole / ranks,
        "weights are sharded at rest": rest < 1.05 * 3 * whole / ranks,
        "a few layers at a time": max(storages) < ends + 2 * layer + layer / 2,
    }


class Unsharded(Stage3):
    """Parameters come and go as they should, but every rank keeps the optimizer's state of all."""

    def reshard(self, unit: Unit) -> None:
        if not hasattr(unit, "whole"):
            unit.whole = unit.flat.clone()  # type: ignore[attr-defined]
        super().reshard(unit)

    def own_weights(self, unit: Unit) -> Tensor:
        return getattr(unit, "whole", unit.flat)

    def reshard_gradient(self, unit: Unit) -> None:
        assert unit.gradient is not None
        gathered = torch.empty_like(unit.gradient)
        all_gather(gathered, unit.gradient[unit.owned].clone())
        unit.gradient, unit.gradient_shard = None, gathered

    def all_gather(self, unit: Unit) -> None:
        unit.shard.copy_(self.own_weights(unit)[unit.owned])


class Replicated(Stage2):
    """Says 3 and never lets go of a parameter."""

    stage = 3


class NeverReshards(Stage3):
    """Gathers, and keeps what it has gathered until the next step makes it stale."""

    at_rest = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.at_rest = False
        return super().forward(*args, **kwargs)

    def reshard(self, unit: Unit) -> None:
        if self.at_rest:
            super().reshard(unit)

    def step(self) -> float | None:
        self.at_rest = True
        for unit in self.units:
            self.reshard(unit)
        return super().step()


def test_each_pretender_fails_the_property_that_it_lacks() -> None:
    def run() -> dict[str, dict[str, bool]]:
        wrappers: dict[str, Callable[[nn.Module], Zero]] = {
            "ours": lambda module: zero(module, ADAMW, 3),
            "no prefetch": lambda module: zero(module, ADAMW, 3, prefetch=False),
            "unsharded optimizer": lambda module: Unsharded(module, ADAMW),
            "replicated": lambda module: Replicated(module, ADAMW),
            "never reshards": lambda module: NeverReshards(module, ADAMW),
            "stage 0": lambda module: Zero(module, ADAMW),
        }
        return {name: check_properties(wrap) for name, wrap in wrappers.items()}

    lacking = {name: {p for p, held in facts.items() if not held} for name, facts in launch(run, 4)[1].items()}
    assert lacking == {
        "ours": set(),
        "no prefetch": set(),
        "unsharded optimizer": {"optimizer state is sharded", "weights are sharded at rest"},
        "replicated": {"weights are sharded at rest", "a few layers at a time"},
        "never reshards": {"a few layers at a time"},
        "stage 0": {"optimizer state is sharded", "weights are sharded at rest", "a few layers at a time"},
    }


def traced_step(stage: int, prefetch: bool = True) -> list[UnitEvent]:
    model = zero(Plain(), ADAMW, stage, prefetch=prefetch)
    trace = UnitTrace(model)
    for _ in range(2):
        trace.clear()
        model(torch.randn(2, 8)).square().mean().backward()
        model.step()
    return trace.events()


def test_prefetch_starts_a_gather_before_it_is_needed() -> None:
    early = {}
    for prefetch in (True, False):
        trace = launch(traced_step, 2, 3, prefetch)[0]
        for unit in [f"hidden.{number}" for number in range(6)]:
            own = [
                event.kind
                for event in trace
                if event.unit == unit and event.kind in ("all_gather", "forward", "backward")
            ]
            assert sorted(own[:2]) == ["all_gather", "forward"]
            assert sorted(own[2:]) == ["all_gather", "backward"]
        events = [(event.kind, event.unit) for event in trace]
        early[prefetch] = [
            events.index(("all_gather", f"hidden.{k + 1}")) < events.index(("reshard", f"hidden.{k}")) for k in range(5)
        ]
    assert early == {True: [True] * 5, False: [False] * 5}


def test_two_layers_at_most_have_weights() -> None:
    def run(prefetch: bool) -> float:
        model = zero(nn.Sequential(*(nn.Linear(64, 64) for _ in range(6))), ADAMW, 3, prefetch=prefetch)
        trace = UnitTrace(model)
        model(torch.randn(2, 64)).square().mean().backward()
        layer = 4 * model.units[0].size
        return max(event.parameters for event in trace.events()) / layer - 6 / dist.get_world_size()

    for prefetch in (True, False):
        assert launch(run, 4, prefetch) == [2] * 4  # whole layers beside the shards


def test_a_trace_tells_every_collective_and_the_bytes_of_its_moment() -> None:
    once = {"reduce": 1, "reduced": 1, "step": 1}
    sent = {"all_gather": 1, "all_gathered": 1}
    expected = {0: once, 1: once | sent, 2: once | sent}
    expected[3] = once | {"all_gather": 2, "all_gathered": 2, "reshard": 2, "forward": 1, "backward": 1}
    for stage, kinds in expected.items():
        trace = launch(traced_step, 2, stage)[0]
        own = [event for event in trace if event.unit == "hidden.2"]
        assert {kind: sum(event.kind == kind for event in own) for kind in {e.kind for e in own}} == kinds
        at = {event.kind: event.time for event in own}
        assert at["reduce"] < at["reduced"]
        most, least = (pick(event.parameters for event in trace) for pick in (max, min))
        assert (most > 1.2 * least) == (stage == 3)  # weights come and go in stage 3 alone
        assert max(event.gradients for event in trace) > 0


# Checkpoints --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_goes_on_at_other_world_sizes_and_stages(tmp_path: Path) -> None:
    def run(start: str | None, stage: int, end: str | None, steps: int, **options: Any) -> tuple[list[float], int]:
        torch.manual_seed(7)
        model = zero(Odd(), ADAMW, stage, **options)
        if dist.get_rank() == 0:
            model.module.offset += 0 if start else 1.0  # a buffer that only the checkpoint knows
        step = load_shards(tmp_path / start, model) if start else 0
        dist.broadcast(model.module.offset, 0)
        losses, _ = train(model, steps=steps)
        if end:
            save_shards(tmp_path / end, model, step=steps)
        return losses, step

    launch(run, 4, None, 2, "four", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four"]
    assert len(list((tmp_path / "four").iterdir())) == 4
    expected = launch(run, 4, None, 2, None, 7)[0][0][3:]
    for ranks, stage, options in ((4, 1, {}), (2, 3, {"offload": True}), (2, 2, {}), (1, 0, {}), (1, 3, {})):
        losses, step = launch(run, ranks, "four", stage, None, 4, **options)[0]
        assert step == 3
        assert difference(losses, expected) < 1e-6, (ranks, stage)
    launch(run, 1, "four", 3, "one", 1)  # and back to more
    assert difference(launch(run, 4, "one", 3, None, 3)[0][0], expected[1:]) < 1e-6


def test_files_of_the_first_format_load(tmp_path: Path) -> None:
    """Written here by hand, as save_shards has always written them: a Linear of 6 + 2 numbers, saved by two ranks."""
    weights, moments = torch.arange(8.0), torch.arange(8.0) / 8
    layout = [{"trained": True, "shapes": {"weight": [2, 3], "bias": [2]}}]
    tree = {"run": "a", "step": 5, "layout": layout, "groups": [{"lr": 0.25}]}
    (tmp_path / "old").mkdir()
    for rank in range(2):
        half = slice(4 * rank, 4 * rank + 4)
        tensors = {"0.weights": weights[half], "0.exp_avg": moments[half], "0.exp_avg_sq": moments[half] ** 2}
        path = tmp_path / "old" / f"rank-{rank}-of-2.safetensors"
        sealed.write(path, KIND, tree, tensors | {"0.step": torch.tensor(5.0)})

    def run() -> None:
        model = zero(nn.Linear(3, 2), ADAMW, 2)
        assert load_shards(tmp_path / "old", model) == 5
        state = model.full_state_dict()
        assert torch.equal(torch.cat([state["weight"].flatten(), state["bias"]]), weights)
        entry = model.optimizer.state[model.units[0].master]
        assert torch.equal(entry["exp_avg"], moments[model.units[0].owned])
        assert torch.equal(entry["exp_avg_sq"], moments[model.units[0].owned] ** 2)
        assert (entry["step"], model.optimizer.param_groups[0]["lr"]) == (5, 0.25)

    for ranks in (1, 2, 4):
        launch(run, ranks)


def test_a_bad_checkpoint_is_named_and_changes_nothing(tmp_path: Path) -> None:
    def run() -> dict[str, str]:
        told: dict[str, str] = {}

        def expect(case: str, action: Callable[[], Any]) -> None:
            before = {k: t.clone() for k, t in model.full_state_dict().items()}
            try:
                action()
            except (OSError, ValueError) as error:
                told[case] = str(error)
            after = model.full_state_dict()
            assert all(torch.equal(t, after[k]) for k, t in before.items())
            dist.barrier()

        model = zero(Odd(), ADAMW, 2)
        one_step(model, model.accumulating, 1)
        model.step()
        save_shards(tmp_path / "good", model)
        save_shards(tmp_path / "other", model)
        expect("there", lambda: save_shards(tmp_path / "good", model))
        expect("nothing", lambda: load_shards(tmp_path / "none", model))
        name = "rank-1-of-2.safetensors"
        files = {
            "bits": bytearray((tmp_path / "good" / name).read_bytes()),
            "foreign": (tmp_path / "other" / name).read_bytes(),
        }
        files["short"] = bytes(files["bits"])[:-9]
        files["bits"][-5] ^= 1
        dist.barrier()  # both have read the shard before one of them overwrites it
        for case, content in files.items():
            if dist.get_rank() == 0:
                (tmp_path / "good" / name).write_bytes(content)
            dist.barrier()
            expect(case, lambda: load_shards(tmp_path / "good", model))
        if dist.get_rank() == 0:
            (tmp_path / "good" / name).unlink()
        dist.barrier()
        expect("missing", lambda: load_shards(tmp_path / "good", model))
        model = zero(Odd(), ADAMW, 2, layers=[])
        expect("layers", lambda: load_shards(tmp_path / "other", model))
        model = zero(Plain(), ADAMW, 2)
        expect("model", lambda: load_shards(tmp_path / "other", model))
        return told

    first, second = launch(run, 2)
    named = dict.fromkeys(("bits", "short", "foreign", "missing"), "good/rank-1-of-2.safetensors")
    named |= {"there": "good is there already", "nothing": "none is no checkpoint"}
    named |= {"layers": "first difference", "model": "first difference"}
    assert first.keys() == named.keys()
    for case, words in named.items():
        assert words in first[case], case
    for case, words in {
        "bits": "SHA-256",
        "short": "truncated",
        "foreign": "another run",
        "missing": "no shard",
    }.items():
        assert words in first[case], case
    assert second == first
    assert first["there"].startswith("rank 0: ")


# What else people do ------------------------------------------------------------------------------------------------


def test_recomputation_evaluation_and_failures_leave_a_released_model() -> None:
    class Recomputing(Plain):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for layer in self.hidden:
                x = x + checkpoint(layer, x, use_reentrant=False)
            return self.last(x)

    def run() -> list[bool]:
        x, norms, released = torch.randn(4, 8), [], []
        for kind in (Plain, Recomputing):
            torch.manual_seed(0)
            model = zero(kind(), ADAMW, 3, clip=1.0)
            model(x).square().mean().backward()
            norms.append(model.step())
            with torch.no_grad():
                model(x)
            with contextlib.suppress(RuntimeError):
                model(torch.randn(4, 9))  # 8 expected
            released.append(not any(unit.is_unsharded for unit in model.units))
            model(x).square().mean().backward()  # and it still works
            model.step()
        return [abs(norms[0] - norms[1]) < 1e-6, *released]

    assert launch(run, 2) == [[True] * 3] * 2


def test_bf16_keeps_what_an_addition_in_bf16_would_lose() -> None:
    def run() -> list[tuple[float, float, str]]:
        found = []
        for stage in estimate.STAGES:
            torch.manual_seed(0)
            model = zero(Plain(), functools.partial(torch.optim.SGD, lr=1e-5), stage, precision="bf16")
            before = model.full_state_dict()["hidden.0.0.weight"]
            for _ in range(4):
                out = model(torch.ones(4, 8))
                out.float().sum().backward()
                model.step()
            moved = (model.full_state_dict()["hidden.0.0.weight"] - before).abs().max().item()
            working = model.units[1].shard.float()
            found.append((moved, working.abs().max().item(), str(out.dtype)))
        return found

    for moved, largest, dtype in launch(run, 2)[0]:
        assert 0 < moved < largest * 2**-9  # less than half a unit in the last place of BF16 at the largest weight
        assert dtype == "torch.bfloat16"


def test_scheduler_sets_the_rate() -> None:
    def run() -> list[float]:
        model = zero(Plain(), ADAMW, 2)
        scheduler = torch.optim.lr_scheduler.LambdaLR(model.optimizer, lambda step: 0.5**step)
        rates = []
        for _ in range(3):
            model(torch.randn(2, 8)).square().mean().backward()
            model.step()
            rates.append(model.optimizer.param_groups[0]["lr"])
            scheduler.step()
        return rates

    assert launch(run, 1)[0] == [0.01, 0.005, 0.0025]


class Whole(torch.optim.SGD):
    """An optimizer from elsewhere that says what it needs."""

    needs_matrices = True


def test_wrong_use_is_told() -> None:
    def run() -> dict[str, str]:
        told: dict[str, str] = {}

        def expect(case: str, action: Callable[[], Any]) -> None:
            try:
                action()
            except (TypeError, ValueError, RuntimeError) as error:
                told[case] = str(error)

        expect("stage", lambda: zero(Plain(), ADAMW, 4))
        expect("precision", lambda: zero(Plain(), ADAMW, 1, precision="fp8"))  # type: ignore[arg-type]
        expect("fp16", lambda: zero(Plain(), ADAMW, 1, precision="fp16"))
        expect("offload", lambda: zero(Plain(), ADAMW, 0, offload=True))
        for name, kind in {"Muon": torch.optim.Muon, "Adafactor": torch.optim.Adafactor, "own Muon": Muon}.items():
            expect(name, lambda kind=kind: zero(Plain(), functools.partial(kind, lr=0.01), 2))
        expect("Whole", lambda: zero(Plain(), lambda shards: Whole(shards, lr=0.1), 2))
        expect("optimizer", lambda: zero(Plain(), torch.optim.SGD(Plain().parameters(), lr=1), 1))  # type: ignore[arg-type]
        expect("clip", lambda: zero(Plain(), ADAMW, 1, clip=0.0))
        expect("double", lambda: zero(Plain().double(), ADAMW, 1))
        expect("frozen", lambda: zero(Plain().requires_grad_(False), ADAMW, 1))
        expect("twice", lambda: zero(zero(Plain(), ADAMW, 1), ADAMW, 1))
        expect("layers", lambda: zero(Plain(), ADAMW, 3, layers=[nn.Linear(2, 2)]))
        model = zero(Odd(), ADAMW, 1)
        expect("step", model.step)
        with model.accumulating():
            one_step(model, model.accumulating, 1)
        expect("accumulating", model.step)
        one_step(model, model.accumulating, 1)
        expect("backward", lambda: one_step(model, model.accumulating, 1))
        model = zero(Odd(), ADAMW, 1)
        model.module.frozen.requires_grad_(True)
        expect("unfrozen", lambda: one_step(model, model.accumulating, 1))
        return told

    expected = {  # what was wrong, by its name or value, must be in the sentence
        "stage": "stage 4",
        "precision": "fp8",
        "fp16": "loss scale",
        "offload": "stage 0",
        "optimizer": "SGD",
        **{name: name for name in ("Muon", "Adafactor", "Whole")},
        "own Muon": "Muon",
        "clip": "0.0",
        "double": "first.weight is float64",
        "frozen": "no parameter",
        "twice": "already",
        "layers": "Linear is no layer",
        "step": "no averaged gradient",
        "accumulating": "no averaged gradient",
        "backward": "averaged already",
        "unfrozen": "frozen.weight",
    }
    told = launch(run, 1)[0]
    assert told.keys() == expected.keys()
    for case, message in expected.items():
        assert message in told[case], case


def test_the_benchmark_compares_equal_steps_and_bytes() -> None:
    tiny = ViTConfig(image_size=8, patch_size=4, width=32, depth=2, heads=2, num_classes=4)
    runs, sent = launch(bench.time_all, 2, tiny, 2, 1)[0]
    assert set(runs) == set(sent) == {"stage 1", "stage 2", "stage 3", *bench.OPPONENTS.values()}
    assert sent["stage 1"] == pytest.approx(sent["stage 2"])
    assert sent["stage 2"] == pytest.approx(sent[bench.OPPONENTS[2]], rel=0.05)
    assert sent["stage 3"] == pytest.approx(1.5 * sent["stage 2"], rel=0.01)

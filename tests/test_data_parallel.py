"""Data parallelism gives one process's numbers, sends the bytes of its formula, and while backward still runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from course_utils.bench import ddp
from course_utils.data_parallel import DataParallel, global_mean, root_step
from course_utils.data_parallel.cost import replay, step
from course_utils.data_parallel.data_parallel import Event, make_buckets
from course_utils.launch import RankFailed, launch
from course_utils.measure import Ledger
from course_utils.measure.communication import Link, ring_all_reduce_bytes, ring_all_reduce_time

BUCKET_MB = 0.02
STEPS = 4


class Model(nn.Module):
    """Everything that is not plain about parameters: tied, frozen, used twice, of no dimension; and a buffer."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 32)
        self.frozen = nn.Linear(32, 32).requires_grad_(False)
        self.hidden = nn.ModuleList([nn.Linear(32, 32) for _ in range(6)])
        self.scale = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(32, 11)
        self.out.weight = self.embedding.weight  # tied
        self.register_buffer("offset", torch.randn(32))
        self.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.frozen(self.embedding(ids)) + self.offset  # [B, N, 32]
        for layer in (*self.hidden, self.hidden[0]):
            x = x + layer(x).tanh()
        return self.out(self.scale * x.mean(1))  # [B, 11]


def batch(size: int = 48) -> tuple[Tensor, Tensor]:
    """The global batch: the same on every rank and in the test itself."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(11, (size, 5), generator=generator), torch.randint(11, (size,), generator=generator)


def train(model: nn.Module, ids: Tensor, labels: Tensor, micro_batches: int = 1) -> list[Tensor]:
    """A few steps with momentum and weight decay; the weights afterwards."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.02, momentum=0.9, weight_decay=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        pieces = list(zip(ids.chunk(micro_batches), labels.chunk(micro_batches), strict=True))
        if micro_batches > 1:
            with model.no_sync():
                for piece_ids, piece_labels in pieces[:-1]:
                    (F.cross_entropy(model(piece_ids), piece_labels) / micro_batches).backward()
        (F.cross_entropy(model(pieces[-1][0]), pieces[-1][1]) / micro_batches).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def one_process() -> list[Tensor]:
    torch.manual_seed(0)
    return train(Model(), *batch())


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def my_part(*tensors: Tensor) -> list[Tensor]:
    return [tensor.chunk(dist.get_world_size())[dist.get_rank()] for tensor in tensors]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_equal_to_one_process_and_to_torch(ranks: int) -> None:
    def run() -> dict[str, Any]:
        def model() -> Model:
            torch.manual_seed(dist.get_rank())  # replicas differ until they are made equal
            return Model()

        part, found = my_part(*batch()), {}
        ours = DataParallel(model(), BUCKET_MB)
        with Ledger() as ledger:
            found["ours"] = train(ours, *part)
        found["accumulated"] = train(DataParallel(model(), BUCKET_MB), *part, micro_batches=3)
        found["torch"] = train(DistributedDataParallel(model(), bucket_cap_mb=BUCKET_MB), *part)
        size = sum(p.nbytes for p in ours.parameters() if p.requires_grad)
        calls = [call.operation for call in ledger.calls]
        return found | {"sent": ledger.wire_bytes() / STEPS, "size": size, "calls": calls, "n": len(ours.buckets)}

    expected, results = one_process(), launch(run, ranks)
    for result in results:
        # FP64: sums of 48 samples in another order differ by 1e-16 or so; a wrong mean by more than 1e-3.
        assert difference(result["ours"], expected) < 1e-13
        assert difference(result["accumulated"], expected) < 1e-13
        assert difference(result["ours"], result["torch"]) < 1e-13
        assert result["sent"] == pytest.approx(ring_all_reduce_bytes(result["size"], ranks), rel=0.02)
        assert result["calls"] == ["all_reduce"] * result["n"] * STEPS
        for name in ("ours", "accumulated"):  # bit by bit
            assert difference(result[name], results[0][name]) == 0
    assert 3 <= results[0]["n"] <= 5  # of 17 parameters


# What makes it data parallelism, and not something that only looks like it ------------------------------------------


def check_properties(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, bool]:
    """One step of anything that claims to be data parallel, seen from outside: by the ledger and gradients' hooks."""
    torch.manual_seed(dist.get_rank())
    module = Model()
    calls_then: list[int] = []  # calls so far when a gradient came
    with Ledger() as ledger:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _: calls_then.append(len(ledger.calls)))
        model = wrap(module)
        before = len(ledger.calls)
        ids, labels = my_part(*batch())
        F.cross_entropy(model(ids), labels).backward()
    if (finish := getattr(model, "finish", None)) is not None:
        finish()
    mine = torch.cat([gradient.flatten() for gradient in gradients(module)])
    torch.manual_seed(0)
    alone = Model()
    F.cross_entropy(alone(batch()[0]), batch()[1]).backward()
    expected = torch.cat([gradient.flatten() for gradient in gradients(alone)])
    everybody = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everybody, mine)
    return {
        "overlaps": calls_then[-1] > before,
        "bucketed": len(ledger.calls) - before < len(gradients(module)) / 2,
        "replicas agree": all(torch.equal(other, everybody[0]) for other in everybody),
        "mean of all": torch.allclose(mine, expected, rtol=0, atol=1e-13),
    }


class Naive(nn.Module):
    """The base of the pretenders: equal at the start, and then one of them forgets something."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.module(ids)


class Silent(Naive):
    """Never communicates again."""


class AfterBackward(Naive):
    """One large call, but only when backward is over: nothing overlaps."""

    def finish(self) -> None:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        flat = torch.cat([p.grad.flatten() for p in trained]) / dist.get_world_size()
        dist.all_reduce(flat)
        for p, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            p.grad.copy_(part.view_as(p))


class Unbucketed(Naive):
    """A call for each parameter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.reduce)

    def reduce(self, parameter: Tensor) -> None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def summed(module: nn.Module) -> DataParallel:
    """The sum in place of the mean."""
    model = DataParallel(module, BUCKET_MB)
    model._share = 1.0
    return model


def test_each_pretender_fails_the_property_that_it_lacks() -> None:
    def run() -> dict[str, dict[str, bool]]:
        wrappers: dict[str, Callable[[nn.Module], nn.Module]] = {
            "ours": lambda module: DataParallel(module, BUCKET_MB),
            "torch": lambda module: DistributedDataParallel(module, bucket_cap_mb=BUCKET_MB),
            "silent": Silent,
            "after backward": AfterBackward,
            "unbucketed": Unbucketed,
            "summed": summed,
            "one bucket": lambda module: DataParallel(module, 25),
        }
        return {name: check_properties(wrap) for name, wrap in wrappers.items()}

    lacking = {name: {p for p, held in facts.items() if not held} for name, facts in launch(run, 4)[1].items()}
    assert lacking == {
        "ours": set(),
        "torch": set(),
        "silent": {"overlaps", "replicas agree", "mean of all"},
        "after backward": {"overlaps"},
        "unbucketed": {"bucketed"},
        "summed": {"mean of all"},
        "one bucket": {"overlaps"},  # nothing to send before the last gradient: why buckets are small
    }


def test_under_no_sync_nothing_is_sent_and_nothing_lost() -> None:
    def run() -> dict[str, float]:
        torch.manual_seed(0)
        model = DataParallel(Model(), BUCKET_MB)
        ids, labels = my_part(*batch())
        with Ledger() as quiet, model.no_sync(), model.no_sync():
            F.cross_entropy(model(ids[:6]), labels[:6]).backward()
        with Ledger() as loud:
            F.cross_entropy(model(ids[6:]), labels[6:]).backward()
        once = gradients(model)
        alone = Model()
        alone.load_state_dict(model.module.state_dict())
        everything = [(a, b) for a, b in zip(*(t.chunk(2) for t in batch()), strict=True)]
        for part_ids, part_labels in everything:
            for half in (slice(6), slice(6, None)):  # the weights of a mean over ranks: 1/2 each
                (F.cross_entropy(alone(part_ids[half]), part_labels[half]) / 2).backward()
        F.cross_entropy(model(ids[:6]), labels[:6]).backward()  # no zero_grad: adds to what is averaged already
        again = Model()
        again.load_state_dict(model.module.state_dict())
        for part_ids, part_labels in everything:
            (F.cross_entropy(again(part_ids[:6]), part_labels[:6]) / 2).backward()
        return {
            "quiet": len(quiet.calls),
            "loud": len(loud.calls) - len(model.buckets),
            "accumulated": difference(once, gradients(alone)),
            "again": difference([g - old for g, old in zip(gradients(model), once, strict=True)], gradients(again)),
        }

    for found in launch(run, 2):
        assert found["quiet"] == found["loud"] == 0
        assert found["accumulated"] < 1e-14
        assert found["again"] < 1e-14


def test_gradients_live_in_the_buckets_and_the_optimizer_may_do_as_it_likes() -> None:
    def run() -> None:
        torch.manual_seed(0)
        model = DataParallel(Model(torch.float32), BUCKET_MB)
        ids, labels = my_part(*batch())
        trained = [p for p in model.parameters() if p.requires_grad]
        found = []
        for to_none in (True, False, True):
            for p in trained:
                if to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()
            F.cross_entropy(model(ids), labels).backward()
            storages = {bucket.flat.untyped_storage().data_ptr() for bucket in model.buckets}
            assert {p.grad.untyped_storage().data_ptr() for p in trained} == storages
            assert all(p.grad.shape == p.shape for p in trained)
            found.append(gradients(model))
        assert difference(found[0], found[1]) == difference(found[0], found[2]) == 0
        assert torch.equal(model.module.out.weight, model.module.embedding.weight)
        assert all(bucket.flat[-1] == 0 for bucket in model.buckets)

    launch(run, 2)


def test_in_a_subgroup_and_alone() -> None:
    def run() -> float:
        rank = dist.get_rank()
        groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, float(rank))
        model = DataParallel(module, group=groups[rank % 2])
        assert module.weight.item() == rank % 2
        model(torch.tensor([[float(rank)]])).sum().backward()
        return module.weight.grad.item()

    def alone() -> float:
        model = DataParallel(nn.Linear(1, 1, bias=False))
        model(torch.tensor([[3.0]])).sum().backward()
        return model.module.weight.grad.item()

    assert launch(run, 4) == [1.0, 2.0, 1.0, 2.0]  # the means of 0, 2 and of 1, 3
    assert launch(alone, 1) == [3.0]


def test_trace_tells_the_story_of_a_backward() -> None:
    def run() -> tuple[list[Event], list[int]]:
        trace: list[Event] = []
        model = DataParallel(Model(), BUCKET_MB, trace=trace)
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        return trace, [len(bucket.views) for bucket in model.buckets]

    for trace, sizes in launch(run, 2):
        count = len(sizes)
        for kind in ("start", "done"):
            assert sorted(e.bucket for e in trace if e.kind == kind) == list(range(count))
        assert [e.bucket for e in trace if e.kind == "start"] == list(range(count))
        at = {(e.kind, e.bucket): e.time for e in trace}  # of gradients, the last of each bucket
        for bucket, size in enumerate(sizes):
            gradients = [e for e in trace if e.kind == "gradient" and e.bucket == bucket]
            assert len({e.parameter for e in gradients}) == len(gradients) == size
            assert at["gradient", bucket] <= at["start", bucket] <= at["done", bucket]
        assert at["start", 0] < at["gradient", count - 1], "the first all-reduce waits for the last gradient"


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_ranks_that_disagree_say_so_and_do_not_hang() -> None:
    def run() -> list[str]:
        said: list[str] = []

        def attempt(action: Callable[[], object]) -> None:
            try:
                action()
            except (ValueError, RuntimeError) as error:
                said.append(str(error))

        model = DataParallel(layers := nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))))
        x = torch.ones(2, 4)
        attempt(lambda: layers[2](x if dist.get_rank() == 1 else layers[0](layers[1](x))).sum().backward())
        for p in layers.parameters():
            p.grad = None
        attempt(lambda: model(x).sum().backward())  # and the group is still in step
        assert layers[0].weight.grad is not None
        attempt(lambda: layers[2](layers[1](checkpoint(layers[1], layers[0](x), use_reentrant=True))).sum().backward())
        attempt(lambda: DataParallel(nn.Linear(4, 4 + dist.get_rank())))
        attempt(lambda: DataParallel(nn.Linear(4, 4).requires_grad_(False)))
        attempt(lambda: DataParallel(nn.Linear(4, 4), bucket_mb=0))
        late = DataParallel(nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)))
        late.requires_grad_(True)
        attempt(lambda: late(x).sum().backward())
        attempt(lambda: global_mean(torch.zeros(()), 0))
        return said

    named = [  # what was wrong, by its name or value
        ("rank 1: 1.bias, 1.weight, 0.bias and 1 more",),
        ("second gradient", "use_reentrant=False"),
        ("ranks 0 and 1", "bias [4]"),
        ("no parameter",),
        ("bucket_mb is 0",),
        ("0.weight", "unfrozen"),
        ("no rank",),
    ]
    for said in launch(run, 2, timeout=30):
        assert len(said) == len(named), said
        for sentence, words in zip(said, named, strict=True):
            assert all(word in sentence for word in words), sentence


def test_buckets_are_cut_in_order_by_size_dtype_and_device() -> None:
    def parameters(*sizes: int, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes]

    def sizes(found: list[list[nn.Parameter]]) -> list[list[int]]:
        return [[p.numel() for p in part] for part in found]

    assert sizes(make_buckets(parameters(2, 3, 4, 5, 1), 24)) == [[2, 3], [4], [5, 1]]
    assert sizes(make_buckets(parameters(9, 1, 9), 24)) == [[9], [1], [9]]  # the large ones alone
    mixed = parameters(1, 1) + parameters(1, dtype=torch.float64) + parameters(1)
    assert sizes(make_buckets(mixed, 1000)) == [[1, 1], [1], [1]]
    assert make_buckets([], 24) == []


# Beside it ----------------------------------------------------------------------------------------------------------


def test_root_step_is_right_and_its_bytes_pile_up_at_the_root() -> None:
    def run() -> tuple[list[Tensor], float, int]:
        torch.manual_seed(0)
        model = Model().requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ids, labels = my_part(*batch())
        with Ledger() as ledger:
            F.cross_entropy(model(ids), labels).backward()
            root_step(model, optimizer)
        return [p.detach() for p in model.parameters()], ledger.wire_bytes(), sum(p.nbytes for p in model.parameters())

    torch.manual_seed(0)
    alone = Model().requires_grad_(True)
    F.cross_entropy(alone(batch()[0]), batch()[1]).backward()
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    results = launch(run, 4)
    assert [sent for _, sent, _ in results] == [(3 if rank == 0 else 1) * results[0][2] for rank in range(4)]
    for weights, _, _ in results:
        assert difference(weights, [p.detach() for p in alone.parameters()]) < 1e-14
        assert difference(weights, results[0][0]) == 0


def test_global_mean_is_exact_for_unequal_shards() -> None:
    def run() -> tuple[float, float, float]:
        torch.manual_seed(0)
        model = DataParallel(Model())
        mine = [t.split([6, 2])[dist.get_rank()] for t in batch(8)]
        model.zero_grad()
        losses = F.cross_entropy(model(mine[0]), mine[1], reduction="sum")
        loss = global_mean(losses, len(mine[0]))
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        weighted = gradients(model)
        model.zero_grad()
        F.cross_entropy(model(mine[0]), mine[1]).backward()
        alone = Model()
        alone.load_state_dict(model.module.state_dict())
        whole = F.cross_entropy(alone(batch(8)[0]), batch(8)[1])
        whole.backward()
        return (
            difference(weighted, gradients(alone)),
            difference(gradients(model), gradients(alone)),
            (mean / 2 - whole).item(),
        )

    for weighted, plain, loss in launch(run, 2):
        assert weighted < 1e-14
        assert abs(loss) < 1e-14
        assert plain > 1e-2


@pytest.mark.parametrize("ranks", [2, 3])
def test_global_mean_is_exact_for_weighted_losses_and_ignored_targets(ranks: int) -> None:
    weights = torch.arange(1.0, 12.0, dtype=torch.float64)

    def run() -> tuple[float, float]:
        torch.manual_seed(0)
        model, alone = DataParallel(Model()), Model()
        alone.load_state_dict(model.module.state_dict())
        ids, labels = batch(12)
        labels[:4] = -100  # more on the first rank than on the others
        mine, own = my_part(ids, labels)
        F.cross_entropy(alone(ids), labels, weights).backward()
        F.cross_entropy(model(mine), own, weights).backward()
        plain = difference(gradients(model), gradients(alone))
        model.zero_grad()
        count = weights[own[own >= 0]].sum().item()
        global_mean(F.cross_entropy(model(mine), own, weights, reduction="sum"), count).backward()
        return difference(gradients(model), gradients(alone)), plain

    for exact, plain in launch(run, ranks):
        assert exact < 1e-13
        assert not plain < 1e-3  # without it: wrong, or nan where a rank has no target at all


def test_estimated_steps() -> None:
    link = Link(latency=1e-3, bandwidth=1e6)
    once = ring_all_reduce_time(5e5, 4, link)
    found = step(1e6, 2, forward=1.0, backward=2.0, ranks=4, link=link)
    assert [time for bucket in found.buckets for time in bucket] == pytest.approx([2.0, 2.0 + once, 3.0, 3.0 + once])
    assert found.exposed == pytest.approx(once)
    assert found.efficiency == pytest.approx(3 / (3 + once))
    busy = replay([1e6, 1e6], [1.0, 1.1], 1.2, 4, link)
    assert busy.buckets[1][0] == busy.buckets[0][1]  # the link carries one at a time
    assert step(1e6, 3, 1.0, 2.0, 1, link).exposed == 0
    assert step(0, 1, 1.0, 2.0, 4, link).exposed == pytest.approx(6e-3)  # latency alone
    with pytest.raises(ValueError, match="0 buckets"):
        step(1e6, 0, 1.0, 2.0, 4, link)


def test_bench_compares_models_that_stay_equal() -> None:
    small = ddp.ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_classes=3)
    line = json.loads(ddp.measure(small, 2, 7, "small").json())
    assert set(line["medians"]) == {"ours", "torch", "torch, same buckets", "torch, views"}
    assert line["goal"] == 1.10
    assert line["bytes_sent_per_rank"] == pytest.approx(4 * line["parameters"], rel=0.02)

    def spoiled() -> None:
        ddp.DataParallel = lambda module, bucket_mb: module  # does not communicate
        ddp.time_all(small, 2, 7)

    with pytest.raises(RankFailed, match="ours and torch differ by"):
        launch(spoiled, 2)

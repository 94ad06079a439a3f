"""The ledger sees each real call of torch's own parallelism, and its bytes are those computed by hand."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import sys
import threading
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from course_utils.launch import RankFailed, launch
from course_utils.measure import Held, Ledger, Sent, add_up, held
from course_utils.measure import operators as calls_module

WIDTH, LAYERS, BATCH = 8, 4, 6
PARAMETERS = LAYERS * (WIDTH * WIDTH + WIDTH)  # 288
S = 4 * PARAMETERS  # bytes in FP32


def mlp() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def test_every_collective_of_torch_by_hand() -> None:
    """12 numbers of 4 bytes on 4 ranks, root 1: payload and wire bytes of each rank, worked out on paper."""

    def run() -> dict[str, list[Sent]]:
        rank, x = dist.get_rank(), torch.ones(12)
        parts = [torch.ones(3) for _ in range(4)]
        calls: dict[str, Any] = {
            "all_reduce": lambda: dist.all_reduce(x),
            "broadcast": lambda: dist.broadcast(x, 1),
            "reduce": lambda: dist.reduce(x, 1),
            "all_gather": lambda: dist.all_gather([torch.empty(12) for _ in range(4)], x),
            "reduce_scatter": lambda: dist.reduce_scatter(torch.empty(3), parts),
            "all_to_all": lambda: dist.all_to_all([torch.empty(3) for _ in range(4)], parts),
            "uneven": lambda: dist.all_to_all_single(
                torch.empty(4 * (rank + 1)), torch.ones(10), [rank + 1] * 4, [1, 2, 3, 4]
            ),
            "gather": lambda: dist.gather(x, [torch.empty(12) for _ in range(4)] if rank == 1 else None, 1),
            "scatter": lambda: dist.scatter(torch.empty(3), parts if rank == 1 else None, 1),
            "barrier": dist.barrier,
        }
        found = {}
        for name, call in calls.items():
            with Ledger() as ledger:
                call()
            found[name] = ledger.sent()
        return found

    results = launch(run, 4)
    by_hand: dict[str, tuple[int, list[float]]] = {  # payload S; wire bytes of ranks 0 to 3
        "all_reduce": (48, [72, 72, 72, 72]),  # 2 * 3/4 * 48
        "broadcast": (48, [0, 48, 48, 48]),  # along 1, 2, 3, 0: the last one has nobody to tell
        "reduce": (48, [48, 0, 48, 48]),  # along 2, 3, 0, 1
        "all_gather": (192, [144, 144, 144, 144]),  # 3/4 * 192
        "reduce_scatter": (48, [36, 36, 36, 36]),
        "all_to_all": (48, [36, 36, 36, 36]),
        "uneven": (40, [36, 32, 28, 24]),  # rank r keeps r + 1 of its 10 numbers
        "gather": (192, [48, 0, 48, 48]),
        "scatter": (48, [0, 36, 0, 0]),
        "barrier": (0, [0, 0, 0, 0]),
    }
    for name, (payload, wire) in by_hand.items():
        operation = "all_to_all" if name == "uneven" else name
        expected = [[Sent(operation, "0-3", 1, payload, w)] for w in wire]
        assert [result[name] for result in results] == expected, name


def sent_by_sockets() -> int:
    """Bytes that the sockets of this process have sent so far, as the kernel counts them (Linux)."""
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as found:
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                information = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                sent, again = struct.unpack_from("QQ", information, 200)  # tcpi_bytes_sent, tcpi_bytes_retrans
                total += sent - again
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of a socket's bytes is Linux's")
def test_what_is_charged_is_what_the_kernel_counts_where_the_algorithm_is_that_of_the_formula() -> None:
    """gloo: a ring for all_reduce and all_gather, but a tree for broadcast, and reduce_scatter is half an all_reduce
    of which all is done."""
    size = 2**20  # bytes; what is sent besides, to agree on buffers, is a few kilobytes

    def run() -> dict[str, tuple[float, float]]:
        x, found = torch.ones(size // 4), {}
        calls: dict[str, Any] = {
            "all_reduce": lambda: dist.all_reduce(x),
            "all_gather": lambda: dist.all_gather([torch.empty(size // 16) for _ in range(4)], x[: size // 16]),
            "broadcast": lambda: dist.broadcast(x, 0),
            "reduce_scatter": lambda: dist.reduce_scatter(torch.empty(size // 16), list(x.chunk(4))),
        }
        for name, call in calls.items():
            call()
            dist.barrier()
            before = sent_by_sockets()
            with Ledger() as ledger:
                call()
            time.sleep(0.2)  # a leaf of the tree may have returned while another rank still sends
            found[name] = ledger.wire_bytes() / size, (sent_by_sockets() - before) / size
            dist.barrier()
        return found

    results = launch(run, 4)
    for result in results:
        assert result["all_reduce"] == pytest.approx((1.5, 1.5), abs=0.01)  # 2 * 3/4
        assert result["all_gather"] == pytest.approx((0.75, 0.75), abs=0.01)
        assert result["reduce_scatter"] == pytest.approx((0.75, 1.5), abs=0.01)
    assert [result["broadcast"][0] for result in results] == [1, 1, 1, 0]  # charged: a chain
    assert [result["broadcast"][1] for result in results] == pytest.approx([2, 1, 0, 0], abs=0.01)  # sent: a tree


@pytest.mark.parametrize("ranks", [2, 4])
def test_ddp_all_reduces_each_bucket_in_backward(ranks: int) -> None:
    def run(in_thread: bool) -> list[list[Sent]]:
        model = DistributedDataParallel(mlp(), bucket_cap_mb=S / 2 / 2**20, gradient_as_bucket_view=True)
        x, found = torch.randn(BATCH, WIDTH), []
        model(x).sum().backward()  # the first step broadcasts and settles the buckets
        model(x).sum().backward()
        loss = model(x).sum()
        with Ledger() as ledger:
            if in_thread:
                thread = threading.Thread(target=loss.backward)
                thread.start()
                thread.join()
            else:
                loss.backward()
        found.append(ledger.sent())
        with Ledger() as ledger, model.no_sync():
            model(x).sum().backward()
        return [*found, ledger.sent()]

    for backward, quiet in launch(run, ranks, False):
        (row,) = backward
        assert row[:2] == ("all_reduce", "0,1" if ranks == 2 else "0-3")
        assert row.calls >= 2, "one bucket would not show that each of several is counted"
        assert row.payload == S
        assert row.wire == pytest.approx(2 * (ranks - 1) / ranks * S)
        assert quiet == []
    with pytest.raises(RankFailed, match="were made outside the ledger's thread"):
        launch(run, ranks, True)  # a lost call is an error, never a smaller number


def test_fsdp2_gathers_twice_and_scatters_once() -> None:
    def run() -> tuple[list[Sent], Held]:
        mesh, model = init_device_mesh("cpu", (4,)), mlp()
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        x = torch.randn(BATCH, WIDTH)
        for _ in range(2):
            with Ledger(model) as ledger:
                model(x).sum().backward()
            optimizer.step()
        return ledger.sent(), held(model, optimizer)

    for rows, holds in launch(run, 4):
        table = {row.operation: row for row in rows}
        assert set(table) == {"all_gather", "reduce_scatter"}
        assert table["all_gather"].payload == 2 * S  # each layer once in forward, once more in backward
        assert table["reduce_scatter"].payload == S
        assert table["reduce_scatter"].wire == 3 / 4 * S
        assert holds == Held(S // 4, S // 4, 0, 2 * S // 4)  # of each, a quarter; Adam has two moments


def test_dtensor_pays_where_it_redistributes_even_unasked() -> None:
    def run() -> tuple[list[Sent], list[Sent], list[Sent]]:
        mesh = init_device_mesh("cpu", (2,))
        plan = {"0": ColwiseParallel(), "1": RowwiseParallel()}
        model = parallelize_module(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)), mesh, plan)
        x = torch.randn(BATCH, 8, requires_grad=True)
        with Ledger(model) as forward:
            y = model(x)
        with Ledger(model) as backward:
            y.sum().backward()
        split = distribute_tensor(torch.randn(4, 6), mesh, [Shard(1)])
        total = split @ distribute_tensor(torch.randn(6, 3), mesh, [Shard(0)])
        assert isinstance(total, DTensor)
        assert total.placements == (Partial(),)
        with Ledger() as hidden:
            torch.relu(total)  # not linear: the partial sums must be added first
        return forward.sent(), backward.sent(), hidden.sent()

    for forward, backward, hidden in launch(run, 2):
        all_reduce = Sent("all_reduce", "0,1", 1, BATCH * 8 * 4, BATCH * 8 * 4)  # [B, 8] in FP32, once each way
        assert forward == [all_reduce]
        assert backward == [all_reduce]
        assert hidden == [Sent("all_reduce", "0,1", 1, 4 * 3 * 4, 4 * 3 * 4)]


def test_pipelining_sends_activations_forward_and_gradients_back() -> None:
    micro_batches = 4

    def run() -> list[Sent]:
        rank = dist.get_rank()
        stage = PipelineStage(nn.Linear(WIDTH, WIDTH), rank, 2, torch.device("cpu"))
        schedule = Schedule1F1B(stage, micro_batches, loss_fn=F.mse_loss)
        x = torch.randn(micro_batches * 3, WIDTH)
        for _ in range(2):  # the first step also tells shapes
            with Ledger() as ledger:
                schedule.step(x) if rank == 0 else schedule.step(target=x)
        return ledger.sent()

    size = micro_batches * 3 * WIDTH * 4
    first, second = launch(run, 2)
    assert {row[:4] for row in first} == {("send", "0→1", micro_batches, size), ("recv", "1→0", micro_batches, size)}
    assert {row[:4] for row in second} == {("recv", "0→1", micro_batches, size), ("send", "1→0", micro_batches, size)}
    assert sum(row.wire for row in (*first, *second)) == 2 * size


def test_functional_collectives_that_autograd_knows() -> None:
    def run() -> tuple[list[Sent], list[Sent]]:
        x = torch.ones(6, 2, requires_grad=True)
        with Ledger() as forward:
            y = functional.all_gather_tensor_autograd(x, 0, dist.group.WORLD).sum()
        with Ledger() as backward:
            y.backward()
        return forward.sent(), backward.sent()

    for forward, backward in launch(run, 2):
        assert forward == [Sent("all_gather", "0,1", 1, 2 * 48, 48)]
        assert backward == [Sent("reduce_scatter", "0,1", 1, 2 * 48, 48)]


def test_groups_are_told_apart_and_rows_add_up() -> None:
    def run() -> tuple[list[Sent], float, float]:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        with Ledger() as ledger:
            dist.all_reduce(torch.ones(10), group=mesh.get_group("dp"))
            dist.all_reduce(torch.ones(3), group=mesh.get_group("tp"))
            dist.all_reduce(torch.ones(3), group=mesh.get_group("tp"), async_op=True).wait()
        return ledger.sent(), ledger.wire_bytes(), ledger.wire_bytes(group=ledger.sent()[0].group)

    results = launch(run, 4)
    assert results[2] == ([Sent("all_reduce", "0,2", 1, 40, 40), Sent("all_reduce", "2,3", 2, 24, 24)], 64, 40)
    everyone = add_up(row for rows, _, _ in results for row in rows)
    assert sorted(everyone) == [
        Sent("all_reduce", "0,1", 4, 48, 48),
        Sent("all_reduce", "0,2", 2, 80, 80),
        Sent("all_reduce", "1,3", 2, 80, 80),
        Sent("all_reduce", "2,3", 4, 48, 48),
    ]


def test_an_operator_that_is_not_known_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        calls_module.OPERATORS.pop("c10d::broadcast_", None)
        with Ledger():
            dist.broadcast(torch.ones(1), 0)

    with pytest.raises(RankFailed, match=r"the ledger does not know c10d\.broadcast_.*enter it in"):
        launch(run, 2)


def test_every_operator_of_this_torch_is_known_or_silent() -> None:
    ours = {s.name: s for s in torch._C._jit_get_all_schemas() if s.name.startswith(("c10d::", "_c10d_functional::"))}
    known = {name for name in ours if name in calls_module.OPERATORS or name.endswith(calls_module.SILENT)}
    assert len(known) > 30
    assert set(ours) - known == {"_c10d_functional::batch_p2p_ops"}  # made by a compiler only
    for name, (_, holder) in calls_module.OPERATORS.items():
        arguments = {argument.name for argument in ours[name].arguments}
        assert holder.removeprefix("N * ") in arguments | {""}, name
        assert arguments & {"process_group", "group_name"}, name


def test_saved_activations_are_counted_while_they_live() -> None:
    model, x = mlp(), torch.randn(BATCH, WIDTH)
    with Ledger(model) as ledger:
        loss = model(x).sum()
        # each Linear keeps its input [B, W]; its weight is a parameter
        assert ledger.saved == LAYERS * BATCH * WIDTH * 4
        loss.backward()
        assert ledger.saved == 0
        model(x).sum()  # nobody keeps this graph
        assert ledger.saved == 0
        halves = [model(part).sum() for part in x.chunk(2)]
        assert ledger.saved == LAYERS * BATCH * WIDTH * 4 - BATCH * WIDTH * 4 + x.nbytes  # chunks are views of x
    assert ledger.saved_peak == LAYERS * BATCH * WIDTH * 4
    del halves
    assert ledger.saved == 0


def test_inputs_count_and_parameters_do_not() -> None:
    """Both products save x, a leaf as what a pipeline receives is; the product of the two saves both results."""
    layer, x = nn.Linear(8, 8, bias=False), torch.randn(3, 8, requires_grad=True)
    for given in (layer, None):
        with Ledger(given) as ledger:
            layer(x) * layer(x)
        assert ledger.saved_peak == 3 * (3 * 8 * 4)
        assert [saved.shape for saved in ledger.saved_tensors] == [(3, 8)] * 3


def test_what_is_shared_counts_once_and_checkpointing_saves() -> None:
    x = torch.randn(10, requires_grad=True)
    with Ledger() as ledger:
        y = x * 2
        z = y * y + y.sin()  # y is kept three times
        assert ledger.saved == 40
        del z
    block, inputs = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(BATCH, 8)
    kept = {}
    for name in ("plain", "recomputed"):
        with Ledger(block) as ledger:
            out = checkpoint(block, inputs, use_reentrant=False) if name == "recomputed" else block(inputs)
            kept[name] = ledger.saved
            out.sum().backward()
    assert kept == {"plain": BATCH * (8 + 64 + 64) * 4, "recomputed": BATCH * 8 * 4}


def test_held_counts_a_model_its_gradients_and_moments() -> None:
    model = mlp()
    assert held(model) == Held(S, 0, 0, 0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, WIDTH)).sum().backward()
    optimizer.step()
    assert held(model, optimizer) == Held(S, S, 0, 2 * S)
    assert held(model, optimizer).total == 16 * PARAMETERS
    masters = [p.detach().clone() for p in model.parameters()]
    half = model.to(torch.bfloat16)
    assert held(half, torch.optim.SGD(masters)).master_weights == S
    tied = nn.ModuleList([model[0], model[0]])
    assert held(tied).parameters == S // LAYERS // 2


def test_a_ledger_prints_itself_and_travels() -> None:
    def run() -> Ledger:
        with Ledger() as ledger:
            dist.all_reduce(torch.ones(10**6))
        return ledger

    ledger = launch(run, 2)[0]
    assert str(ledger).splitlines()[1].split() == ["all_reduce", "0,1", "1", "4,000,000", "4,000,000"]
    assert "<td>4,000,000</td>" in ledger._repr_html_()
    assert 'class="dataframe course-table"' in ledger._repr_html_()
    assert str(pickle.loads(pickle.dumps(Ledger()))) == "nothing was sent"
    assert isinstance(ledger.calls[0].wire, float)


def test_a_ledger_does_not_count_twice() -> None:
    ledger = Ledger()
    with ledger, pytest.raises(RuntimeError, match="already counting"), ledger:
        pass
    with Ledger() as ledger:
        pass
    assert isinstance(torch.ones(1) + 1, Tensor)  # the mode is gone
    assert ledger.sent() == []


def test_a_forward_whose_graph_is_dropped_gives_back_what_it_saved() -> None:
    """An operator that saves its own result, such as tanh, must not hold itself alive."""
    x = torch.randn(8, requires_grad=True)
    with Ledger() as ledger:
        y = torch.tanh(x).exp()
        assert ledger.saved > 0
        del y
        assert ledger.saved == 0
        (torch.tanh(x).exp().sum()).backward()
        assert ledger.saved == 0
    same = torch.randn(8, requires_grad=True)
    with Ledger():  # and a second derivative still finds its way through what was saved
        (first,) = torch.autograd.grad(torch.tanh(same).sum(), same, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), same)
    torch.testing.assert_close(second, -2 * torch.tanh(same) * (1 - torch.tanh(same) ** 2))

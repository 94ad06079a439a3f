"""DeepSpeed inside our launcher: losses of plain data parallelism, bytes as the formulas say, checkpoints that move."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from course_utils.deepspeed import checkpoint
from course_utils.deepspeed.config import check_config, deepspeed_config
from course_utils.deepspeed.cpu_adam import find_cpu_adam
from course_utils.deepspeed.engine import deepspeed_engine, held_by_engine, preload
from course_utils.launch import launch
from course_utils.measure import Ledger

STEPS, BATCH, WORDS, WIDTH = 10, 16, 37, 24
SETTINGS: dict[str, dict[str, Any]] = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "2, offload": {"stage": 2, "offload_optimizer": "cpu"},
    "3": {"stage": 3},
    "3, offloads": {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
}
CLIP = 0.5


class Tied(nn.Module):
    """Predicts a token from the one before; what reads the tokens also writes them, with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.write = nn.Linear(WIDTH, WORDS, bias=False)
        self.write.weight = self.read.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``[B]`` in, logits ``[B, words]`` out."""
        x = self.read(ids)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.write(x)


PARAMETERS = sum(p.numel() for p in Tied().parameters())


def model() -> Tied:
    torch.manual_seed(7)
    return Tied()


def part(micro: int) -> tuple[Tensor, Tensor]:
    """This rank's samples of one of the two micro-batches, the same in every step."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(WORDS, (2, BATCH), generator=generator)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    return ids[micro][mine], (5 * ids[micro][mine] + 1) % WORDS


def mean(loss: float) -> float:
    total = torch.tensor(loss, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def config(**changes: Any) -> dict[str, Any]:
    ranks = dist.get_world_size()
    settings = {"micro_batch": BATCH // ranks, "accumulate": 2, "ranks": ranks, "lr": 1e-2, "clip": CLIP, **changes}
    return deepspeed_config(**settings)


def train(engine: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = 0.0
        for micro in range(2):
            x, y = part(micro)
            value = F.cross_entropy(engine(x).float(), y)
            engine.backward(value)
            engine.step()
            loss += value.item() / 2
        losses.append(mean(loss))
    return losses


def train_torch(wrapped: nn.Module) -> list[float]:
    """The reference: torch's own wrappers, every micro-batch reduced."""
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(STEPS):
        loss = 0.0
        for micro in range(2):
            x, y = part(micro)
            value = F.cross_entropy(wrapped(x), y)
            (value / 2).backward()
            loss += value.item() / 2
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean(loss))
    return losses


def one_step_counted(engine: Any) -> dict[str, Any]:
    """Bytes held after each backward, and bytes that a step hands to each collective."""
    states = []
    with Ledger() as ledger:
        for micro in range(2):
            x, y = part(micro)
            engine.backward(F.cross_entropy(engine(x).float(), y))
            states.append(held_by_engine(engine))
            engine.step()
    return {"held": states, "sent": {row.operation: row.payload for row in ledger.sent()}}


def everything(folder: Path | None) -> dict[str, Any]:
    """What one launch proves: losses of all, bytes, and a checkpoint of two stages with what came after it."""
    sharded = model()
    for layer in sharded.layers:
        fully_shard(layer)
    fully_shard(sharded)
    result: dict[str, Any] = {
        "losses": {"ddp": train_torch(DistributedDataParallel(model())), "fsdp2": train_torch(sharded)}
    }
    for name, settings in SETTINGS.items():
        with deepspeed_engine(model(), config(**settings)) as engine:
            result["losses"][name] = train(engine, STEPS)
            result[name] = one_step_counted(engine)
    if folder is not None:
        for stage in (2, 3):
            with deepspeed_engine(model(), config(stage=stage)) as engine:
                train(engine, 3)
                checkpoint.save(engine, folder, f"stage {stage}")
                result[f"after {stage}"] = train(engine, 3)
            with deepspeed_engine(model(), config(stage=stage)) as engine:
                assert checkpoint.load(engine, folder, f"stage {stage}") == 3
                result[f"again {stage}"] = train(engine, 3)
    for precision in ("bf16", "fp16"):
        try:
            with deepspeed_engine(model(), config(stage=3, precision=precision)) as engine:
                result["losses", precision] = train(engine, STEPS)
                result[precision] = one_step_counted(engine)
        except RuntimeError as error:
            result["refused", precision] = str(error)
    return result


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def runs(saved: Path) -> dict[int, list[dict[str, Any]]]:
    preload()
    return {ranks: launch(everything, ranks, saved if ranks == 4 else None, timeout=240) for ranks in (2, 4)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_are_those_of_data_parallelism(runs: dict[int, Any], ranks: int) -> None:
    losses = runs[ranks][0]["losses"]
    assert losses["ddp"][-1] < losses["ddp"][0] - 0.1  # it learns, so equality says something
    for name in ("fsdp2", *SETTINGS):
        assert losses[name] == pytest.approx(losses["ddp"], abs=1e-5), name
    bf16 = runs[ranks][0]["losses", "bf16"]
    assert bf16 == pytest.approx(losses["ddp"], rel=0.02)
    assert bf16 != pytest.approx(losses["ddp"], rel=1e-6)  # 16 bits were really used
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():  # by few processors; DeepSpeed trains in FP16 on no other
        fp16 = runs[ranks][0]["losses", "fp16"]
        assert fp16[-1] < fp16[0] - 0.1  # after some steps that the loss scale skipped
    else:
        assert "bf16" in runs[ranks][0]["refused", "fp16"]


def test_no_process_port_shared_memory_or_file_is_left(runs: dict[int, Any], nothing_left: None) -> None:
    def run() -> int:
        with deepspeed_engine(model(), config(stage=3, offload_optimizer="cpu")) as engine:
            return len(train(engine, 1))

    assert launch(run, 2) == [1, 1]


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_held_are_those_of_the_formulas(runs: dict[int, Any], ranks: int) -> None:
    n = ranks
    # Bytes for each parameter: weights, gradients (in stage 1 after a micro-batch that ends no step), masters, moments.
    formulas = {"0": (4, 4, 0, 8), "1": (4, 4, 4 / n, 8 / n), "2": (4, 4 / n, 4 / n, 8 / n),
                "3": (4 / n, 4 / n, 4 / n, 8 / n), "bf16": (2 / n, 2 / n, 4 / n, 8 / n)}  # fmt: skip
    for name, formula in formulas.items():
        for rank in range(ranks):
            # Stage 2 counts a parameter that two ranks share at both of them, until the step's last micro-batch.
            device, host = runs[ranks][rank][name]["held"][1 if name == "2" else 0]
            assert host.total == 0
            expected = [PARAMETERS * each for each in formula]
            assert list(device) == pytest.approx(expected, rel=0.02, abs=200), (name, rank)


@pytest.mark.parametrize("ranks", [2, 4])
def test_offload_leaves_weights_alone_on_the_device(runs: dict[int, Any], ranks: int) -> None:
    device, host = runs[ranks][0]["2, offload"]["held"][1]
    assert (device.parameters, device.total) == (4 * PARAMETERS, 4 * PARAMETERS)
    assert host.optimizer_state == pytest.approx(8 * PARAMETERS / ranks, rel=0.02)
    assert host.gradients >= 4 * PARAMETERS // ranks
    device, host = runs[ranks][0]["3, offloads"]["held"][1]
    assert device.total == 0
    assert host.parameters == pytest.approx(4 * PARAMETERS / ranks, rel=0.02, abs=200)


def test_bytes_sent(runs: dict[int, Any]) -> None:
    size = 4 * PARAMETERS
    for ranks in (2, 4):
        sent = {name: runs[ranks][0][name]["sent"] for name in SETTINGS}
        assert sent["0"]["all_reduce"] == pytest.approx(size, rel=0.02)
        assert sent["1"]["all_reduce"] == pytest.approx(size, rel=0.02)  # once a step, at its end
        assert sent["2"]["all_reduce"] == pytest.approx(2 * size, rel=0.02)  # after each of the two micro-batches
        for stage in ("1", "2"):
            assert sent[stage]["all_gather"] == pytest.approx(size, rel=0.02)
        # Each of the two micro-batches gathers the weights for forward and for backward, and reduces its gradients.
        assert sent["3"]["reduce_scatter"] == pytest.approx(2 * size, rel=0.02)
        assert 2 * size * 0.98 <= sent["3"]["all_gather"] <= 4 * size * 1.02


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_goes_on_where_it_was(runs: dict[int, Any], stage: int) -> None:
    assert runs[4][0][f"again {stage}"] == pytest.approx(runs[4][0][f"after {stage}"], abs=1e-7)


def go_on(folder: Path, tag: str, stages: list[int]) -> list[list[float]]:
    found = []
    for stage in stages:
        with deepspeed_engine(model(), config(stage=stage, load_universal=True)) as engine:
            checkpoint.load(engine, folder, tag)
            found.append(train(engine, 3))
    with (
        deepspeed_engine(model(), config(stage=2)) as engine,
        pytest.raises(ValueError, match="load_universal=True"),
    ):
        checkpoint.load(engine, folder, tag)
    with (
        deepspeed_engine(model(), config(stage=2)) as engine,
        pytest.raises(ValueError, match=r"4 ranks, .* [12]: .*to_universal"),
    ):
        checkpoint.load(engine, folder, "stage 2")
    return found


@pytest.mark.parametrize(("stage", "ranks", "stages"), [(2, 2, [1, 2, 3]), (3, 1, [3, 2])])
def test_a_checkpoint_moves_to_other_stages_and_ranks(
    runs: dict[int, Any], saved: Path, stage: int, ranks: int, stages: list[int]
) -> None:
    tag = checkpoint.to_universal(saved, f"stage {stage}")
    for losses in launch(go_on, ranks, saved, tag, stages)[0]:
        assert losses == pytest.approx(runs[4][0][f"after {stage}"], abs=1e-5)
    with pytest.raises(FileExistsError, match="universal already"):
        checkpoint.to_universal(saved, f"stage {stage}")


def test_gathered_weights_are_ordinary_weights(runs: dict[int, Any], saved: Path) -> None:
    for stage in (2, 3):
        fresh = Tied()
        fresh.load_state_dict(checkpoint.gathered_weights(saved, f"stage {stage}"))
        ids = torch.randint(WORDS, (2, BATCH), generator=torch.Generator().manual_seed(3))
        loss = sum(F.cross_entropy(fresh(x), (5 * x + 1) % WORDS).item() / 2 for x in ids)
        assert loss == pytest.approx(runs[4][0][f"after {stage}"][0], abs=1e-5)


def test_a_damaged_or_missing_shard_is_named(runs: dict[int, Any], saved: Path) -> None:
    shard = sorted((saved / "stage 3").glob("*optim_states.pt"))[2]
    whole = shard.read_bytes()
    try:
        shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])  # one bit
        with pytest.raises(ValueError, match=f"{shard.name} is not what was saved"):
            checkpoint.gathered_weights(saved, "stage 3")
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=f"lacks {shard.name}"):
            checkpoint.to_universal(saved, "stage 3", "another")
        assert not (saved / "another").exists()
    finally:
        shard.write_bytes(whole)
    with pytest.raises(FileNotFoundError, match=r"no checksums\.json"):
        checkpoint.check_files(saved / "nothing")


def with_cpu_adam() -> list[float]:
    with deepspeed_engine(model(), config(stage=2, offload_optimizer="cpu", cpu_adam=True)) as engine:
        assert type(engine.optimizer.optimizer).__name__ == "DeepSpeedCPUAdam"
        return train(engine, STEPS)


def test_cpu_adam_takes_the_same_steps(runs: dict[int, Any]) -> None:
    if not (found := find_cpu_adam()).ready:
        pytest.skip(found.sentence)
    assert launch(with_cpu_adam, 2)[0] == pytest.approx(runs[2][0]["losses"]["ddp"], rel=1e-5, abs=1e-5)


def refused() -> list[str]:
    messages = []
    wanted: list[dict[str, Any]] = [
        {"type": "AdamW", "params": {"lr": 1e-3}},  # DeepSpeed would compile FusedAdam here
        {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    ]
    for optimizer in wanted:
        changed = config(stage=1) | {"optimizer": optimizer, "gradient_accumulation_steps": 3}
        try:
            with deepspeed_engine(model(), changed):
                pass
        except ValueError as error:
            messages.append(str(error))
    broken = config(stage=1) | {"optimizer": wanted[0]}
    with pytest.raises(RuntimeError, match=r'would now compile its FusedAdam.*"torch_adam": true'):
        deepspeed_engine(model(), broken).__enter__()
    return messages


def test_the_engine_refuses_before_it_starts(runs: dict[int, Any]) -> None:
    messages = launch(refused, 1)[0]
    assert len(messages) == 2
    assert "train_batch_size is 32, and" in messages[0]


GOOD: dict[str, Any] = {"train_batch_size": 32, "gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("changes", "ranks", "stages", "message"),
    [
        ({"train_batch_size": 30}, 4, 1, "train_batch_size is 30"),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}, 4, 1, "48"),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1}, 4, 1, "16"),
        ({"train_batch_size": None}, 4, 1, "train_micro_batch_size_per_gpu"),
        ({"train_batch_size": 0}, 4, 1, "train_batch_size is 0"),
        ({"train_batch_size": "auto"}, 4, 1, "train_batch_size is 'auto'"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, 4, 1, "fp16 and bf16"),
        ({"gradient_clipping": -1}, 4, 1, "gradient_clipping is -1"),
        ({"zero_optimization": {"stage": 4}}, 4, 1, "stage is 4"),
        ({"zero_optimization": {"stage": True}}, 4, 1, "stage is True"),
        ({"zero_optimization": 2}, 4, 1, "zero_optimization is 2"),
        ({}, 4, 2, "stage 2 with 2 pipeline stages"),
        ({"zero_optimization": {"stage": 3}}, 4, 2, "stage 3 with 2 pipeline stages"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, 4, 1, "offload_param with stage 2"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, 4, 1, "offload_optimizer with stage 0"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}}, 4, 1, "offload_param is"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, 4, 1, "nvme_path"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, 4, 1, '"nvme" with stage 2'),
        ({"zero_optimisation": {"stage": 3}}, 4, 1, "'zero_optimisation' .*'zero_optimization'"),
        ({"gradient_accumulation_step": 2}, 4, 1, "'gradient_accumulation_steps'"),
        ({}, 0, 1, "ranks is 0"),
    ],
)
def test_wrong_configurations_are_refused(changes: dict[str, Any], ranks: int, stages: int, message: str) -> None:
    check_config(GOOD, 4)
    with pytest.raises(ValueError, match=message):
        check_config(GOOD | changes, ranks, stages)


def test_right_configurations_pass() -> None:
    check_config(GOOD | {"zero_optimization": {"stage": 1}}, 4, 2)
    check_config(GOOD | {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, 4)
    check_config(GOOD | {"fp16": {"enabled": False}, "bf16": {"enabled": True}, "my_own_notes": 1}, 4)
    check_config({"train_micro_batch_size_per_gpu": 3}, 5)
    written = deepspeed_config(
        stage=3, micro_batch=2, accumulate=4, ranks=8, precision="bf16", offload_optimizer="nvme", nvme_path="/fast"
    )
    assert written["train_batch_size"] == 64
    assert written["gradient_clipping"] == 0.0
    assert written["zero_optimization"]["offload_optimizer"] == {"device": "nvme", "nvme_path": "/fast"}


SCRIPT = """
import sys
import torch
from course_utils.deepspeed.config import deepspeed_config
from course_utils.deepspeed.engine import deepspeed_engine

torch.set_num_threads(1)
torch.manual_seed(0)
with deepspeed_engine(torch.nn.Linear(6, 3), deepspeed_config(stage=1, micro_batch=2, ranks=2)) as engine:
    x = torch.full((2, 6), float(engine.global_rank))
    for _ in range(2):
        loss = engine(x).square().mean()
        engine.backward(loss)
        engine.step()
    weight = sum(p.sum().item() for p in engine.module.parameters())
    open(f"{sys.argv[1]}-{engine.global_rank}", "w").write(f"{engine.world_size} {weight:.6f}")
"""


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_the_same_script_under_both_launchers(tmp_path: Path, launcher: str) -> None:
    for name in ("tmp", "shown"):
        (tmp_path / name).mkdir()
    script, out, hosts = tmp_path / "train.py", tmp_path / "shown" / "rank", tmp_path / "hostfile"
    script.write_text(SCRIPT)
    hosts.write_text("localhost slots=2\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port],
        "deepspeed": ["-m", "deepspeed.launcher.runner", "--hostfile", str(hosts), "--master_port", port,
                      "--master_addr", "127.0.0.1", "--no_local_rank", "--no_ssh_check"],
    }[launcher]  # fmt: skip
    temporary = {"TMPDIR": str(tmp_path / "tmp"), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *command, str(script), str(out)],
        env=os.environ | temporary, check=True, capture_output=True, timeout=200, cwd=tmp_path,
    )  # fmt: skip
    results = [Path(f"{out}-{rank}").read_text().split() for rank in range(2)]
    assert results[0] == results[1]
    assert results[0][0] == "2"
    left = {path.name.split("_")[0] for path in (tmp_path / "tmp").iterdir()}
    assert left <= {"torchelastic", "torchinductor"}  # torch's own: torchrun's logs, the compiler's cache
    assert {path.name for path in tmp_path.iterdir()} == {"tmp", "shown", "train.py", "hostfile"}
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if str(script) in (p.info["cmdline"] or [])]

"""The same program under torchrun on two nodes, under srun's variables, inside launch, and alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from course_utils.launch import distributed_from_environment, launch
from course_utils.launch.environment import _address, _rank_and_world, first_host

PROGRAM = """
import torch
from course_utils.data_parallel import ring_all_reduce
from course_utils.launch import distributed_from_environment
with distributed_from_environment() as process:
    x = torch.full((5,), float(process.rank + 1))
    ring_all_reduce(x)
    print(f"RANK {process.rank} of {process.world_size}, local {process.local_rank}, {process.backend}: {x.tolist()}")
assert not torch.distributed.is_initialized()
"""


STARTERS = ("SLURM_", "RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "TORCHELASTIC_", "COURSE_LAUNCH_")


def clean() -> dict[str, str]:
    """The environment of a process that nobody started as a rank."""
    return {name: value for name, value in os.environ.items() if not name.startswith(STARTERS)}


def test_torchrun_with_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        # One rendezvous for both agents, in a file, since both are on this machine; a cluster names a host instead.
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(tmp_path / "rendezvous")]
        command += ["--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1", "program.py"]
        environment = {**clean(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "NODE": str(node)}
        agents.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [agent.communicate(timeout=150)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    lines = sorted(line for output in outputs for line in output.splitlines() if line.startswith("RANK"))
    assert lines == [f"RANK {rank} of 2, local 0, gloo: [3.0, 3.0, 3.0, 3.0, 3.0]" for rank in range(2)]


def test_alone_it_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean()):
        monkeypatch.delenv(name)
    before = dict(os.environ)
    with distributed_from_environment(backend="gloo") as process:
        assert (process.rank, process.world_size, process.device) == (0, 1, torch.device("cpu"))
        dist.all_reduce(torch.ones(1))
    assert not dist.is_initialized()
    assert dict(os.environ) == before
    with pytest.raises(KeyError, match="planned"), distributed_from_environment(backend="gloo"):
        raise KeyError("planned")
    assert not dist.is_initialized(), "the group outlived an error"


def test_inside_launch_the_group_is_used_and_kept() -> None:
    def work() -> tuple[int, int, bool]:
        with distributed_from_environment() as process:
            seen = process.rank, process.local_rank
        return *seen, dist.is_initialized()

    assert launch(work, 2) == [(0, 0, True), (1, 1, True)]


SLURM = {
    "SLURM_JOB_ID": "200505",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_NODELIST": "gpu[08-11]",
}


def test_slurm_step() -> None:
    assert _rank_and_world(SLURM) == (5, 8, 1)
    assert _address(SLURM) == {"MASTER_ADDR": "gpu08", "MASTER_PORT": str(15000 + 200505 % 20000)}
    ports = {_address({**SLURM, "SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(100)}
    assert len(ports) == 100, "two steps of a job would meet"
    assert _address({**SLURM, "MASTER_ADDR": "here", "MASTER_PORT": "1"}) == {}
    batch_script = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"} | {"SLURM_PROCID": "0"}
    assert _rank_and_world(batch_script) == (0, 1, 0)  # it runs once: to wait for seven others would be for ever
    torchrun_in_slurm = {**SLURM, "RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    assert _rank_and_world(torchrun_in_slurm) == (2, 4, 2)


def test_two_slurm_tasks_really_meet() -> None:
    job = str(os.getpid())

    def task() -> tuple[float, int, str]:
        rank = dist.get_rank()
        dist.barrier()  # a rank that left while another still joins would cut it off
        dist.destroy_process_group()  # from here on this is a process that srun started
        kept = clean() | SLURM | {"SLURM_JOB_ID": job, "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
        os.environ.clear()
        os.environ.update(kept | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        with distributed_from_environment() as process:
            x = torch.tensor([rank + 1.0])
            dist.all_reduce(x)
            return x.item(), process.rank, os.environ["MASTER_ADDR"]

    assert launch(task, 2, timeout=20) == [(3.0, 0, "localhost"), (3.0, 1, "localhost")]


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[08-11,14],cpu3", "gpu08"),
        ("gnode[10,20,25,37]", "gnode10"),
        ("cpu3,gpu[1-2]", "cpu3"),
        ("login", "login"),
        ("r[1-3]n", "r1n"),
        ("node-a[003-004]", "node-a003"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"RANK": "0"},
            "WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set, though RANK is: start the program with torchrun",
        ),
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT not set, though WORLD_SIZE is"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "rank 2 in a world of 2: ranks go from",
        ),
        (
            {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "RANK is 'x': expected a whole number",
        ),
        ({"SLURM_STEP_ID": "0"}, "SLURM_PROCID is not set: expected a whole number"),
    ],
)
def test_environments_that_do_not_fit(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _rank_and_world(environment)


def test_no_host_in_the_node_list() -> None:
    with pytest.raises(ValueError, match="SLURM_STEP_NODELIST is '': expected hosts such as"):
        first_host("")

"""One process group from whatever started this process: torchrun, SLURM's srun, ``launch``, or nobody."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets, and what env:// reads


@dataclass(frozen=True)
class Process:
    """Which of the processes this is, and what it computes on.

    Args:
        rank: its number among all processes, from 0.
        world_size: how many there are.
        local_rank: its number among those of this machine; on one machine the same as ``rank``.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    backend: str


@contextlib.contextmanager
def distributed_from_environment(*, backend: str | None = None, timeout: float = 600.0) -> Iterator[Process]:
    """Join the process group that the environment describes; leave it at the end, whatever happens.

    Understood are the variables of ``torchrun`` (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and those of
    a SLURM step (``srun``). Without either the program runs alone, as a world of one, so that a script can be tried
    before it is scaled. Where a group exists already (inside :func:`launch`), that one is used and left in place.

    Args:
        backend: ``"gloo"`` or ``"nccl"``; by default nccl where there is a GPU, else gloo.
        timeout: seconds after which a collective that some rank never joins raises.

    Raises:
        ValueError: if the variables contradict each other or are incomplete; the message names them.
    """
    if dist.is_initialized():
        yield _this_process(_rank_and_world(os.environ)[2], dist.get_backend())
        return
    rank, world_size, local_rank = _rank_and_world(os.environ)
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    device = _device(local_rank, backend)
    limit = timedelta(seconds=timeout)
    with _variables(
        _address(os.environ) | {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(local_rank)}
    ):
        if "MASTER_ADDR" in os.environ:
            bound = device if device.type == "cuda" else None  # binds nccl to this GPU at once instead of at first use
            dist.init_process_group(backend, timeout=limit, device_id=bound)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
        try:
            yield _this_process(local_rank, backend)
        finally:
            if dist.is_initialized():  # the program may have left by itself
                dist.destroy_process_group()


def _this_process(local_rank: int, backend: str) -> Process:
    return Process(dist.get_rank(), dist.get_world_size(), local_rank, _device(local_rank, backend), backend)


def _rank_and_world(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, world size and local rank; alone, it is 0, 1, 0."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        if missing := [name for name in NEEDED if not environment.get(name)]:
            raise ValueError(
                f"{', '.join(missing)} not set, though {'RANK' if 'RANK' in environment else 'WORLD_SIZE'} is: "
                "start the program with torchrun or srun, or set all of " + ", ".join(NEEDED)
            )
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        local = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else rank
    elif "SLURM_STEP_ID" in environment:  # not in the batch script itself, which runs once, whatever --ntasks says
        rank, local = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
        world = _number(
            environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        )
    else:
        return 0, 1, 0
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} in a world of {world}: ranks go from 0 to WORLD_SIZE - 1")
    return rank, world, local


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None or not value.isdecimal():
        found = "not set" if value is None else f"{value!r}"
        raise ValueError(f"{name} is {found}: expected a whole number, which torchrun and srun set for each process")
    return int(value)


def _address(environment: Mapping[str, str]) -> dict[str, str]:
    """Where rank 0 listens, as far as the environment does not already say it."""
    if "MASTER_ADDR" in environment or "SLURM_STEP_ID" not in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    # Jobs of one cluster have different numbers, and so have the steps of a job, which may run side by side: no two of
    # them on one node meet at the same port.
    number = _number(environment, "SLURM_JOB_ID") + 997 * _number(environment, "SLURM_STEP_ID")
    return {
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(15000 + number % 20000),
    }


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: ``"gpu[08-11,14],cpu3"`` -> ``"gpu08"``."""
    found = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    if not found:
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}: expected hosts such as 'gpu[08-11]'; or set MASTER_ADDR")
    name, number, ending = found.groups(default="")
    return name + number + ending


def _device(local_rank: int, backend: str) -> torch.device:
    """This process's GPU under nccl, made the current one; else the CPU."""
    if backend != "nccl":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = 0 if count == 1 else local_rank  # srun --gpus-per-task=1 shows each process its own GPU as number 0
    if index >= count or (count == 1 and local_rank > 0 and not os.environ.get("CUDA_VISIBLE_DEVICES")):
        raise ValueError(
            f"process {local_rank} of this machine has no GPU of its own, there are {count}: "
            f"start {count} processes per machine, or choose backend='gloo'"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, for libraries that read them too, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""What a call into torch's communication layer is: which collective, on which group, over how many bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from course_utils.measure.communication import (
    all_gather_bytes,
    chain_bytes,
    reduce_scatter_bytes,
    ring_all_reduce_bytes,
)

NAMESPACES = ("c10d", "_c10d_functional")
SILENT = ("wait_tensor", "check_for_nan", "_wrap_tensor_autograd")  # these send nothing

# operator -> collective, and the argument that holds the whole vector; "N *" before it where it holds one rank's part.
_C10D = {  # torch.distributed's own functions, DDP, pipelining
    "allreduce_": ("all_reduce", "tensors"),
    "allreduce_coalesced_": ("all_reduce", "tensors"),
    "broadcast_": ("broadcast", "tensors"),
    "reduce_": ("reduce", "tensors"),
    "allgather_": ("all_gather", "output_tensors"),
    "allgather_coalesced_": ("all_gather", "output_lists"),
    "allgather_into_tensor_coalesced_": ("all_gather", "outputs"),
    "_allgather_base_": ("all_gather", "output_tensor"),
    "reduce_scatter_": ("reduce_scatter", "input_tensors"),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", "inputs"),
    "_reduce_scatter_base_": ("reduce_scatter", "input_tensor"),
    "alltoall_": ("all_to_all", "input_tensors"),
    "alltoall_base_": ("all_to_all", "input"),
    "gather_": ("gather", "N * input_tensors"),
    "gather_into_tensor_": ("gather", "N * input_tensor"),
    "scatter_": ("scatter", "N * output_tensors"),
    "send": ("send", "tensors"),
    "recv_": ("recv", "tensors"),
    "recv_any_source_": ("recv", "tensors"),
    "barrier": ("barrier", ""),
    "monitored_barrier_": ("barrier", ""),
}
_FUNCTIONAL = {  # functional collectives: DTensor, and what torch.compile traces
    "all_reduce": ("all_reduce", "input"),
    "all_reduce_": ("all_reduce", "input"),
    "all_reduce_coalesced": ("all_reduce", "inputs"),
    "all_reduce_coalesced_": ("all_reduce", "inputs"),
    "all_gather_into_tensor": ("all_gather", "N * input"),
    "all_gather_into_tensor_out": ("all_gather", "N * input"),
    "all_gather_into_tensor_coalesced": ("all_gather", "N * inputs"),
    "reduce_scatter_tensor": ("reduce_scatter", "input"),
    "reduce_scatter_tensor_out": ("reduce_scatter", "input"),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", "inputs"),
    "all_to_all_single": ("all_to_all", "input"),
    "broadcast": ("broadcast", "input"),
    "isend": ("send", "tensor"),
    "irecv": ("recv", "tensor"),
    "broadcast_": ("broadcast", "input"),
}
OPERATORS = {
    **{f"c10d::{name}": meaning for name, meaning in _C10D.items()},
    **{f"_c10d_functional::{name}": meaning for name, meaning in _FUNCTIONAL.items()},
}


class Call(NamedTuple):
    """One call as one rank made it.

    Args:
        operation: ``"all_reduce"``, ``"send"``, ...
        group: its global ranks, ``"0-3"`` or ``"0,2"``; for a message ``"0→1"``.
        payload: S, bytes of the whole vector that is reduced, gathered, scattered or sent.
        wire: bytes that this rank is charged with, those it sends in the bandwidth-optimal algorithm: a ring for
            all_reduce, all_gather and reduce_scatter, a chain for broadcast and reduce, direct messages for the rest.
    """

    operation: str
    group: str
    payload: int
    wire: float


def is_communication(func: Any) -> bool:
    """Whether an operator of torch sends or receives."""
    return getattr(func, "namespace", "") in NAMESPACES and func._schema.name.partition("::")[2] not in SILENT


def read_call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Call, dist.ProcessGroup]:
    """What an operator is about to send.

    Raises:
        NotImplementedError: for an operator that is not known here: to skip it would make the ledger wrong.
    """
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | dict(kwargs)
    if func._schema.name not in OPERATORS:
        raise NotImplementedError(
            f"the ledger does not know {func}: enter it in course_utils.measure.operators.OPERATORS with the argument "
            "that holds its data"
        )
    group = _group(named)
    operation, holder = OPERATORS[func._schema.name]
    data = named[holder.removeprefix("N * ")] if holder else []
    payload = nbytes(data) * (group.size() if holder.startswith("N *") else 1)
    label = _label(operation, group, named)
    return Call(operation, label, payload, _wire(operation, payload, group, named, data)), group


def _wire(operation: str, size: int, group: dist.ProcessGroup, named: Mapping[str, Any], data: Any) -> float:
    ranks, rank = group.size(), group.rank()
    root = named.get("root_rank", named.get("src", 0))
    match operation:
        case "all_reduce":
            return ring_all_reduce_bytes(size, ranks)
        case "all_gather":
            return all_gather_bytes(size, ranks)
        case "reduce_scatter":
            return reduce_scatter_bytes(size, ranks)
        case "broadcast":
            return chain_bytes(size, ranks, (rank - root) % ranks)
        case "reduce":  # the chain backwards: everyone but the root passes a sum on
            return chain_bytes(size, ranks, (root - rank) % ranks - 1 if rank != root else ranks - 1)
        case "gather":
            return size / ranks if rank != root else 0
        case "scatter":
            return (ranks - 1) * size / ranks if rank == root else 0
        case "all_to_all":
            return size - _kept(size, ranks, rank, named, data)
        case "send":
            return size
        case _:  # recv, barrier
            return 0


def _kept(size: int, ranks: int, rank: int, named: Mapping[str, Any], data: Any) -> float:
    """Of an all_to_all's input, the bytes that a rank sends to itself and so not at all."""
    if isinstance(data, list | tuple):
        return nbytes(data[rank])
    splits = named.get("input_split_sizes")
    return size * splits[rank] / max(1, sum(splits)) if splits else size / ranks


def nbytes(tensors: Any) -> int:
    """Bytes of all tensors in nested lists."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


def _group(named: Mapping[str, Any]) -> dist.ProcessGroup:
    found = named["process_group"] if "process_group" in named else named["group_name"]
    if isinstance(found, str):
        return dist.distributed_c10d._resolve_process_group(found)  # type: ignore[arg-type]
    return found if isinstance(found, dist.ProcessGroup) else dist.ProcessGroup.unbox(found)


def _label(operation: str, group: dist.ProcessGroup, named: Mapping[str, Any]) -> str:
    ranks = dist.get_process_group_ranks(group)
    me = ranks[group.rank()]
    if operation == "send":
        return f"{me}→{ranks[named['dst']]}"
    if operation == "recv":
        return f"{ranks[named['src']] if 'src' in named else 'any'}→{me}"
    return ranks_label(ranks)


def ranks_label(ranks: Iterable[int]) -> str:
    """``[0, 1, 2, 3]`` -> ``"0-3"``, ``[0, 2]`` -> ``"0,2"``."""
    numbers = list(ranks)
    in_a_row = len(numbers) > 2 and all(b == a + 1 for a, b in pairwise(numbers))
    return f"{numbers[0]}-{numbers[-1]}" if in_a_row else ",".join(map(str, numbers))


def sequence_number(group: dist.ProcessGroup) -> int:
    """How many operations a group has run, by the backend's own count; 0 where a backend runs none, as torch's fake."""
    if dist.get_backend(group) == "fake":
        return 0
    return int(group._get_sequence_number_for_group())  # type: ignore[attr-defined]


def is_dtensor(kind: type) -> bool:
    """Whether a class of tensors is DTensor. Its module is slow to import; where nobody did, there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and issubclass(kind, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: of a DTensor its shard."""
    return tensor._local_tensor if is_dtensor(type(tensor)) else tensor  # type: ignore[attr-defined]

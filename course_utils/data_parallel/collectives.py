"""Collectives out of nothing but send and receive: read one, and you know what the library does.

Every function moves a tensor within a group of N ranks, named 0 to N-1 here whatever their global ranks are. A rank
posts its send and its receive together and then waits for both: with a blocking send first, a ring of large messages
would stand still, every rank waiting for its neighbour to receive.

Pass ``trace=[]`` to get a list of :class:`Move`, one for each message that this rank sends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Move(NamedTuple):
    """One message: in step ``step``, ``source`` sends chunk ``chunk`` of ``elements`` numbers to ``destination``.

    ``phase`` says what the receiver does with it: add it ("reduce") or keep it ("gather").
    """

    phase: str
    step: int
    source: int
    destination: int
    chunk: int
    elements: int


Trace = list[Move] | None


def ring_all_reduce(tensor: Tensor, group: dist.ProcessGroup | None = None, *, trace: Trace = None) -> Tensor:
    """Add up a tensor over all ranks, in place: 2 (N-1) steps, 2 (N-1)/N of the tensor sent by each rank.

    Source: Patarasuk and Yuan 2009, which also proves that no algorithm sends less.
    """
    flat = tensor.contiguous().view(-1)
    chunks = _chunks(flat, group)
    _ring_reduce_scatter(chunks, group, trace)
    _ring_all_gather(chunks, group, trace)
    return tensor if flat.data_ptr() == tensor.data_ptr() else tensor.copy_(flat.view_as(tensor))


def ring_reduce_scatter(tensor: Tensor, group: dist.ProcessGroup | None = None, *, trace: Trace = None) -> Tensor:
    """Rank r gets chunk r of the sum over all ranks, flat; N-1 steps. The input stays as it is.

    Lengths that N does not divide are welcome: the first chunks are one longer.
    """
    chunks = _chunks(tensor.flatten().clone(), group)
    _ring_reduce_scatter(chunks, group, trace)
    return chunks[dist.get_rank(group)].clone()  # not a view, which would keep the whole alive


def ring_all_gather(
    shard: Tensor, numel: int, group: dist.ProcessGroup | None = None, *, trace: Trace = None
) -> Tensor:
    """Put together, on all ranks, a flat tensor of ``numel`` numbers of which rank r has chunk r; N-1 steps.

    Raises:
        ValueError: if the shard has not the length of its chunk.
    """
    whole = shard.new_empty(numel)
    chunks = _chunks(whole, group)
    rank = dist.get_rank(group)
    if shard.numel() != chunks[rank].numel():
        raise ValueError(
            f"rank {rank} has {shard.numel()} numbers, but chunk {rank} of {numel} over {len(chunks)} ranks has "
            f"{chunks[rank].numel()}: cut as torch.tensor_split does"
        )
    chunks[rank].copy_(shard.flatten())
    _ring_all_gather(chunks, group, trace)
    return whole


def _ring_reduce_scatter(chunks: list[Tensor], group: dist.ProcessGroup | None, trace: Trace) -> None:
    """Each chunk travels once around the ring and is added to at every stop; chunk r comes to rest at rank r."""
    rank, ranks = dist.get_rank(group), len(chunks)
    for step in range(ranks - 1):
        out, into = (rank - step - 1) % ranks, (rank - step - 2) % ranks
        received = torch.empty_like(chunks[into])
        _exchange(chunks[out], (rank + 1) % ranks, received, (rank - 1) % ranks, group)
        _note(trace, "reduce", step, rank, (rank + 1) % ranks, out, chunks[out])
        chunks[into] += received


def _ring_all_gather(chunks: list[Tensor], group: dist.ProcessGroup | None, trace: Trace) -> None:
    """Each chunk travels once around the ring and is copied at every stop; it starts at the rank of its number."""
    rank, ranks = dist.get_rank(group), len(chunks)
    for step in range(ranks - 1):
        out, into = (rank - step) % ranks, (rank - step - 1) % ranks
        _exchange(chunks[out], (rank + 1) % ranks, chunks[into], (rank - 1) % ranks, group)
        _note(trace, "gather", step, rank, (rank + 1) % ranks, out, chunks[out])


def tree_all_reduce(tensor: Tensor, group: dist.ProcessGroup | None = None, *, trace: Trace = None) -> Tensor:
    """Add up a tensor over all ranks, in place: up a binomial tree to rank 0 and down again.

    2 ceil(log2 N) steps instead of the ring's 2 (N-1), but whole tensors: better for small ones.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    flat = tensor.contiguous().view(-1)
    step, distance = 0, 1
    while distance < ranks:  # ranks at odd multiples of the distance hand over to the one below, and are done
        if rank % (2 * distance) == distance:
            _send(flat, rank - distance, group)
            _note(trace, "reduce", step, rank, rank - distance, 0, flat)
        elif rank % (2 * distance) == 0 and rank + distance < ranks:
            received = torch.empty_like(flat)
            _receive(received, rank + distance, group)
            flat += received
        step, distance = step + 1, 2 * distance
    broadcast(flat, 0, group, trace=trace)
    return tensor if flat.data_ptr() == tensor.data_ptr() else tensor.copy_(flat.view_as(tensor))


def broadcast(tensor: Tensor, root: int = 0, group: dist.ProcessGroup | None = None, *, trace: Trace = None) -> Tensor:
    """Copy the root's tensor to all ranks, in place, down a binomial tree: the ranks that have it double each step."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    place = (rank - root) % ranks  # counted from the root, so that the tree's root is 0
    flat = tensor.contiguous().view(-1)
    distance, step = 1 << (ranks - 1).bit_length() >> 1, 0
    while distance:
        if place % (2 * distance) == 0 and place + distance < ranks:
            other = (rank + distance) % ranks
            _send(flat, other, group)
            _note(trace, "gather", step, rank, other, 0, flat)
        elif place % (2 * distance) == distance:
            _receive(flat, (rank - distance) % ranks, group)
        step, distance = step + 1, distance // 2
    return tensor if flat.data_ptr() == tensor.data_ptr() else tensor.copy_(flat.view_as(tensor))


def root_all_reduce(tensor: Tensor, group: dist.ProcessGroup | None = None, *, trace: Trace = None) -> Tensor:
    """Add up a tensor over all ranks, in place, the naive way: rank 0 receives all, adds, and sends all back."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    flat = tensor.contiguous().view(-1)
    if rank == 0:
        received = torch.empty_like(flat)
        for other in range(1, ranks):
            _receive(received, other, group)
            flat += received
        for other in range(1, ranks):
            _send(flat, other, group)
            _note(trace, "gather", ranks - 2 + other, 0, other, 0, flat)
    else:
        _send(flat, 0, group)
        _note(trace, "reduce", rank - 1, rank, 0, 0, flat)
        _receive(flat, 0, group)
    return tensor if flat.data_ptr() == tensor.data_ptr() else tensor.copy_(flat.view_as(tensor))


def _chunks(flat: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """A flat tensor as N views, as equal as can be: 10 over 4 ranks gives 3, 3, 2, 2."""
    return list(flat.tensor_split(dist.get_world_size(group)))


def _exchange(out: Tensor, to: int, into: Tensor, source: int, group: dist.ProcessGroup | None) -> None:
    """Send to one neighbour and receive from the other at the same time. Empty chunks need no message."""
    requests = []
    if out.numel():
        requests.append(dist.isend(out, group=group, group_dst=to))
    if into.numel():
        requests.append(dist.irecv(into, group=group, group_src=source))
    for request in requests:
        assert request is not None
        request.wait()


def _send(tensor: Tensor, to: int, group: dist.ProcessGroup | None) -> None:
    if tensor.numel():
        dist.send(tensor, group=group, group_dst=to)


def _receive(tensor: Tensor, source: int, group: dist.ProcessGroup | None) -> None:
    if tensor.numel():
        dist.recv(tensor, group=group, group_src=source)


def _note(trace: Trace, phase: str, step: int, source: int, destination: int, chunk: int, data: Tensor) -> None:
    if trace is not None and data.numel():
        trace.append(Move(phase, step, source, destination, chunk, data.numel()))

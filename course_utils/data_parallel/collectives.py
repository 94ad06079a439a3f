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

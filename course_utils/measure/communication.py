"""What collectives cost: bytes that a rank sends, messages one after the other, and seconds on a given link.

``S`` is the size of the whole vector in bytes, ``N`` the number of ranks. The lower bound for any all-reduce is
2 (N-1)/N S per rank, and the ring meets it (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69(2), 117-124).
Times follow the alpha-beta model (Thakur, Rabenseifner and Gropp 2005, Int. J. High Perform. Comput. Appl.
19(1)): a message of n bytes takes alpha + n beta, and each rank sends and receives at once, one message at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What connects the ranks.

    Args:
        latency: alpha, seconds until a message of no bytes has arrived.
        bandwidth: 1/beta, bytes per second in each direction.
        reduction: gamma, seconds to add up one byte; often small beside beta.
    """

    latency: float
    bandwidth: float
    reduction: float = 0.0

    def message(self, size: float) -> float:
        """Seconds for one message of ``size`` bytes."""
        return self.latency + size / self.bandwidth


# Bytes that one rank sends ------------------------------------------------------------------------------------------


def reduce_scatter_bytes(size: float, ranks: int) -> float:
    """(N-1)/N S: the partial sums of all parts but one's own."""
    return (ranks - 1) * size / _positive(ranks)


def all_gather_bytes(size: float, ranks: int) -> float:
    """(N-1)/N S, with S the gathered whole: every part but one is passed on."""
    return (ranks - 1) * size / _positive(ranks)


def ring_all_reduce_bytes(size: float, ranks: int) -> float:
    """2 (N-1)/N S: a reduce-scatter, then an all-gather. The least that is possible, and nearly the same for any N."""
    return 2 * (ranks - 1) * size / _positive(ranks)


def root_all_reduce_bytes(size: float, ranks: int, rank: int) -> float:
    """What ``rank`` sends when rank 0 collects everything, adds it up and sends it back: (N-1) S or S."""
    return size * (_positive(ranks) - 1 if rank == 0 else 1)


def chain_bytes(size: float, ranks: int, distance: int) -> float:
    """Broadcast (or, backwards, reduce) along a chain: S from each rank that has another one behind it.

    Args:
        distance: of this rank from the root, 0 to N-1.
    """
    return size if distance < _positive(ranks) - 1 else 0.0


# Seconds ------------------------------------------------------------------------------------------------------------


def ring_all_reduce_time(size: float, ranks: int, link: Link) -> float:
    """2 (N-1) alpha + 2 (N-1)/N S beta + (N-1)/N S gamma: the fewest bytes, but many messages in a row."""
    return 2 * (ranks - 1) * link.message(size / _positive(ranks)) + reduce_scatter_bytes(size, ranks) * link.reduction


def root_all_reduce_time(size: float, ranks: int, link: Link) -> float:
    """(N-1) (2 alpha + 2 S beta + S gamma): all goes through the one link of the root."""
    return (_positive(ranks) - 1) * (2 * link.message(size) + size * link.reduction)


def _positive(ranks: int) -> int:
    if ranks < 1:
        raise ValueError(f"{ranks} ranks: a group has at least one")
    return ranks

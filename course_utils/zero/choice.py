"""Which ZeRO to choose: bytes on a device and seconds of a step for each choice, from the figures of a machine.

The seconds are an upper bound: nothing overlaps. Weights and gradients are BF16; Adam keeps 12 bytes a parameter.

Sources: Rajbhandari et al. 2020, arXiv:1910.02054, section 7 (traffic); Ren et al. 2021, arXiv:2101.06840, section 4
(what offload moves); Rajbhandari et al. 2021, arXiv:2104.07857 (weights that wait on the host).
"""

from __future__ import annotations

from typing import NamedTuple

from course_utils.measure.communication import all_gather_bytes
from course_utils.zero.cost import states_per_rank

# Adam reads a gradient, a master weight and two moments, and writes these three and the weight: 2 + 12 + 12 + 2.
UPDATE_BYTES = 28


class Choice(NamedTuple):
    """A stage, and what waits on the host."""

    name: str
    stage: int
    offload_optimizer: bool = False
    offload_parameters: bool = False


CHOICES = (
    Choice("0", 0),
    Choice("1", 1),
    Choice("2", 2),
    Choice("2 + offload", 2, True),
    Choice("3", 3),
    Choice("3 + offloads", 3, True, True),
)


class Machine(NamedTuple):
    """What one rank has. Bandwidths in bytes per second.

    Args:
        memory: bytes of the device that model states may take; activations want theirs too.
        host_memory: bytes of the host's memory that this rank may fill.
        flops: floating-point operations per second that it really reaches.
        device: bandwidth of the device's memory.
        link: to the other ranks.
        host_link: between device and host, such as PCIe.
        host: bandwidth of this rank's share of the host's memory.
    """

    memory: float
    host_memory: float
    flops: float
    device: float
    link: float
    host_link: float
    host: float


class Seconds(NamedTuple):
    """Seconds of one step, by what they go into."""

    compute: float
    link: float
    host_link: float
    update: float

    @property
    def total(self) -> float:
        return sum(self)


def states(choice: Choice, parameters: float, ranks: int) -> tuple[float, float]:
    """Bytes of a rank's model states between two passes: on its device, and on the host."""
    device, host = states_per_rank(parameters, ranks, choice.stage, offload=choice.offload_optimizer)
    moved = device.parameters if choice.offload_parameters else 0.0
    return device.total - moved, host.total + moved


def step(choice: Choice, parameters: float, ranks: int, tokens: float, machine: Machine) -> Seconds:
    """How long one step takes.

    Args:
        tokens: that one rank sees in a step; each costs 6 operations for each parameter.
    """
    passes = 3 if choice.stage == 3 else 2  # times that the model's 16-bit bytes go round the ring
    link = passes * all_gather_bytes(2 * parameters, ranks) / machine.link
    share = parameters / (ranks if choice.stage else 1)
    moved = 0.0
    if choice.offload_optimizer:
        moved += 2 * share  # gradients down
        moved += 2 * share if not choice.offload_parameters else 0.0  # new weights up
    if choice.offload_parameters:
        moved += 2 * 2 * share  # the shard up, for forward and for backward; new weights stay down
    update = UPDATE_BYTES * share / (machine.host if choice.offload_optimizer else machine.device)
    return Seconds(6 * parameters * tokens / machine.flops, link, moved / machine.host_link, update)


def choose(parameters: float, ranks: int, tokens: float, machine: Machine) -> Choice | None:
    """The fastest choice whose model states fit, the lower stage of equals; None when none fits."""

    def fits(choice: Choice) -> bool:
        device, host = states(choice, parameters, ranks)
        return device <= machine.memory and host <= machine.host_memory

    possible = filter(fits, CHOICES)
    return min(possible, key=lambda c: step(c, parameters, ranks, tokens, machine).total, default=None)

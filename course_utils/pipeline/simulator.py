"""Replay a pipeline schedule on a clock: who is busy when, what is idle, what is sent. And the closed formulas.

The bubble, the time in which ranks wait, is stated in two ways that are often mixed; both are here, by name:

    fraction of the step   (p-1)/(m+p-1)   idle time / all time            GPipe, Huang et al. 2019, section 2.3
    overhead over ideal    (p-1)/m         (step - ideal) / ideal time     Narayanan et al. 2021, section 2.2.1

with p ranks and m micro-batches, for GPipe and 1F1B alike. With v chunks a rank, and m of p or more, the overhead is v
times smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from course_utils.pipeline.schedule import Action, Kind, Message, Schedule, check_groups, replay

PerStage = float | Sequence[float]


@dataclass(frozen=True)
class Costs:
    """What each action and each message takes. Times are in seconds, or in any other unit that is used throughout.

    Args:
        forward: of one micro-batch through one stage; one number for all stages, or one for each.
        backward_input: the same for the gradient of the stage's input,
        backward_weight: and of its weights; a full backward takes the sum. With equal matrix products all three
            are alike, so that a backward takes twice a forward.
        message_bytes: size of what is handed from stage to stage, batch x sequence x width x bytes per element.
        latency: seconds per message.
        bandwidth: bytes per second of each link, in each direction. Messages on one link follow each other.
        overlap: whether a rank computes while it sends. If not, it waits until its message has arrived.
    """

    forward: PerStage = 1.0
    backward_input: PerStage = 1.0
    backward_weight: PerStage = 1.0
    message_bytes: float = 0.0
    latency: float = 0.0
    bandwidth: float = float("inf")
    overlap: bool = True

    def __post_init__(self) -> None:
        for name in ("forward", "backward_input", "backward_weight"):
            value = getattr(self, name)
            for seconds in value if isinstance(value, Sequence) else [value]:
                _check(name, seconds, seconds >= 0, "0 or more")
        _check("message_bytes", self.message_bytes, self.message_bytes >= 0, "0 or more")
        _check("latency", self.latency, self.latency >= 0, "0 or more")
        _check("bandwidth", self.bandwidth, self.bandwidth > 0, "more than 0")

    def split(self, chunks: int) -> Costs:
        """The costs when each rank's layers are cut into so many stages: each takes its share, messages stay as large.

        Raises:
            ValueError: when times are given per stage.
        """
        forward, backward_input, backward_weight = self.forward, self.backward_input, self.backward_weight
        if (
            isinstance(forward, Sequence)
            or isinstance(backward_input, Sequence)
            or isinstance(backward_weight, Sequence)
        ):
            raise ValueError("split() needs one time for all stages: give the times of the new stages themselves")
        return replace(
            self,
            forward=forward / chunks,
            backward_input=backward_input / chunks,
            backward_weight=backward_weight / chunks,
        )

    def of(self, action: Action) -> float:
        """Seconds that the action takes."""
        if action.kind is Kind.BACKWARD:
            return self.of(action._replace(kind=Kind.BACKWARD_INPUT)) + self.of(
                action._replace(kind=Kind.BACKWARD_WEIGHT)
            )
        per_stage: PerStage = getattr(self, action.kind.name.lower())
        return float(per_stage[action.stage] if isinstance(per_stage, Sequence) else per_stage)


class Span(NamedTuple):
    """One action on the clock. A run can report its own actions in the same form, to be drawn beside these."""

    rank: int
    action: Action
    start: float
    end: float


class Transfer(NamedTuple):
    """One message on the clock, from the moment its sender lets go to its arrival."""

    message: Message
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A schedule on the clock.

    Args:
        spans: every action, in an order in which they can run.
        transfers: every message between two ranks.
        message_bytes: size of each.
    """

    schedule: Schedule
    spans: tuple[Span, ...]
    transfers: tuple[Transfer, ...]
    message_bytes: float

    @property
    def makespan(self) -> float:
        """Seconds from the start of the step until the last rank is done."""
        return max(span.end for span in self.spans)

    @property
    def busy(self) -> list[float]:
        """Seconds that each rank computes."""
        seconds = [0.0] * self.schedule.ranks
        for span in self.spans:
            seconds[span.rank] += span.end - span.start
        return seconds

    @property
    def ideal(self) -> float:
        """Seconds of the step if the same work were spread evenly and no rank ever waited."""
        return sum(self.busy) / self.schedule.ranks

    @property
    def bubble_fraction(self) -> float:
        """Idle share of all ranks' time: (p-1)/(m+p-1) for GPipe and 1F1B with even stages and no transfer time."""
        return 1 - self.ideal / self.makespan

    @property
    def bubble_overhead(self) -> float:
        """What the step takes beyond the ideal, relative to the ideal: (p-1)/m under the same conditions."""
        return self.makespan / self.ideal - 1

    @property
    def peak_live(self) -> list[int]:
        """For each rank, the most stage activations it holds at once; see `Schedule.peak_live`."""
        return self.schedule.peak_live()

    @property
    def bytes_sent(self) -> list[float]:
        """Bytes that each rank sends to other ranks in the step."""
        sent = [0.0] * self.schedule.ranks
        for transfer in self.transfers:
            sent[transfer.message.source] += self.message_bytes
        return sent


def simulate(schedule: Schedule, costs: Costs | None = None) -> Timeline:
    """Put a schedule on the clock: every action starts as soon as its rank is free and its input is there.

    Args:
        costs: by default a forward takes 1, a backward 2 (input 1, weights 1) and a message no time.

    Raises:
        ValueError: when times are given per stage and not for as many stages as the schedule has.
    """
    costs = costs or Costs()
    _check_stages(schedule, costs)
    free = [0.0] * schedule.ranks  # when each rank has finished what it has begun
    link_free: dict[tuple[int, int], float] = {}  # the same for each link
    arrival: dict[Message, float] = {}
    spans, transfers = [], []
    for rank, action in replay(schedule):
        awaited = schedule.received(action)
        start = max(free[rank], arrival[awaited] if awaited else 0.0)
        free[rank] = end = start + costs.of(action)
        spans.append(Span(rank, action, start, end))
        if message := schedule.sent(action):
            link = message.source, message.target
            leaves = max(end, link_free.get(link, 0.0))
            link_free[link] = leaves + costs.message_bytes / costs.bandwidth
            arrival[message] = link_free[link] + costs.latency
            transfers.append(Transfer(message, leaves, arrival[message]))
            if not costs.overlap:
                free[rank] = arrival[message]
    return Timeline(schedule, tuple(spans), tuple(transfers), costs.message_bytes)


def bubble_overhead(ranks: int, micro_batches: int, chunks: int = 1) -> float:
    """Idle time over ideal time of GPipe and 1F1B (v = 1) and of interleaved 1F1B (v chunks a rank).

    (p-1)/(m v) for p micro-batches or more (Narayanan et al. 2021, sections 2.2.1 and 2.2.2). With fewer, a rank has
    nothing to do between two of its chunks: (p-1 + (v-1)(p-m)) / (m v). One micro-batch has p-1, whatever v is.
    Even stages, no transfer time.

    Raises:
        ValueError: for several chunks and a number of micro-batches that interleaved 1F1B cannot deal out.
    """
    if chunks > 1:
        check_groups(ranks, micro_batches)
    return (ranks - 1 + (chunks - 1) * max(0, ranks - micro_batches)) / (micro_batches * chunks)


def bubble_fraction(ranks: int, micro_batches: int, chunks: int = 1) -> float:
    """Idle time over the whole step: (p-1)/(m v + p - 1) for p micro-batches or more, see :func:`bubble_overhead`.

    With v = 1, Huang et al. 2019, section 2.3.
    """
    overhead = bubble_overhead(ranks, micro_batches, chunks)
    return overhead / (1 + overhead)


def peak_live_1f1b(ranks: int, micro_batches: int, chunks: int = 1) -> list[int]:
    """Activations of a stage that each rank of 1F1B holds at most: min(m, p - r). GPipe holds m everywhere.

    With v chunks a rank runs further ahead: it holds min(v m, (v-1) g + 2 (p-1-r) + 1) stages' activations, each of
    which is v times smaller, with g = min(p, m).
    """
    if chunks == 1:
        return [min(micro_batches, ranks - rank) for rank in range(ranks)]
    ahead = (chunks - 1) * min(ranks, micro_batches)
    return [min(chunks * micro_batches, ahead + 2 * (ranks - 1 - rank) + 1) for rank in range(ranks)]


def boundary_bytes(ranks: int, micro_batches: int, message_bytes: float, chunks: int = 1) -> list[float]:
    """Bytes that each rank sends in a step, with stages dealt out in turn (rank r holds r, r + p, ...), p of 2 or more.

    Each micro-batch sends an activation on from every stage but the last, and a gradient back from all but the first.
    """
    sent = [2 * chunks] * ranks
    sent[-1] -= 1
    sent[0] -= 1
    return [count * micro_batches * message_bytes for count in sent]


def _check_stages(schedule: Schedule, costs: Costs) -> None:
    for name in ("forward", "backward_input", "backward_weight"):
        value = getattr(costs, name)
        if isinstance(value, Sequence) and len(value) != schedule.stages:
            raise ValueError(
                f"{name} gives {len(value)} times, but schedule {schedule.name!r} has {schedule.stages} stages: "
                "give one number for all stages, or one for each"
            )


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}, but must be {expected}")

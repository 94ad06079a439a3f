"""A pipeline schedule as data: for each rank, the list of what it computes, in order.

A model is cut into stages 0 to S-1; stage s takes what stage s-1 hands on. A batch is cut into micro-batches. The
schedule says which rank holds which stage and in which order it runs them. Nothing else is written down: what is sent
and received follows from the actions, and the runtime and the simulator both read this one object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What an action computes. A full backward is the backward for the input and then that for the weights."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"  # the gradient of the stage's input: the previous stage waits for it
    BACKWARD_WEIGHT = "W"  # the gradient of the stage's weights: nobody waits for it


F, B, I, W = Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT  # noqa: E741


class Action(NamedTuple):
    """One micro-batch through one stage, forward or backward."""

    kind: Kind
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        name = self.kind.name.lower().replace("_", " ")
        return f"{name} of micro-batch {self.micro_batch} at stage {self.stage}"


class Message(NamedTuple):
    """What one rank hands to another: an activation to the next stage, or a gradient to the previous one."""

    content: str  # "activation" or "gradient"
    stage: int  # that computed it
    micro_batch: int
    source: int  # rank
    target: int  # rank


class Send(NamedTuple):
    message: Message


class Receive(NamedTuple):
    message: Message


Operation = Action | Send | Receive


@dataclass(frozen=True)
class Schedule:
    """Who computes what, in which order. Making one checks it: a `Schedule` that exists can be run.

    Args:
        name: for figures and messages.
        programs: for each rank its actions, in order.
        stage_rank: for each stage the rank that holds it.
        micro_batches: how many micro-batches a step has.

    Raises:
        ValueError: when an action is missing, doubled, foreign to its rank, or can never start; the message names it.
    """

    name: str
    programs: tuple[tuple[Action, ...], ...]
    stage_rank: tuple[int, ...]
    micro_batches: int

    def __post_init__(self) -> None:
        check_complete(self)
        replay(self)

    @property
    def ranks(self) -> int:
        return len(self.programs)

    @property
    def stages(self) -> int:
        return len(self.stage_rank)

    @property
    def chunks(self) -> int:
        """Stages per rank."""
        return self.stages // self.ranks

    def stages_of(self, rank: int) -> list[int]:
        """The stages that a rank holds, in the order of the model."""
        return [stage for stage, holder in enumerate(self.stage_rank) if holder == rank]

    def needs(self, action: Action) -> list[Action]:
        """What must be computed before this action can start; a full backward counts as its part for the input."""
        kind, stage, micro_batch = action
        if kind is F:
            return [Action(F, stage - 1, micro_batch)] if stage > 0 else []
        if kind is W:
            return [Action(I, stage, micro_batch)]
        after = [Action(I, stage + 1, micro_batch)] if stage + 1 < self.stages else []
        return [Action(F, stage, micro_batch), *after]

    def received(self, action: Action) -> Message | None:
        """The message that this action waits for; None when its input is made on its own rank."""
        for needed in self.needs(action):
            if self.stage_rank[needed.stage] != self.stage_rank[action.stage]:
                return self._message(needed, action.stage)
        return None

    def sent(self, action: Action) -> Message | None:
        """The message that this action's result becomes; None when it stays on its rank."""
        neighbour = {F: action.stage + 1, B: action.stage - 1, I: action.stage - 1}.get(action.kind, -1)
        if not 0 <= neighbour < self.stages or self.stage_rank[neighbour] == self.stage_rank[action.stage]:
            return None
        return self._message(action, neighbour)

    def _message(self, made: Action, neighbour: int) -> Message:
        content = "activation" if made.kind is F else "gradient"
        return Message(content, made.stage, made.micro_batch, self.stage_rank[made.stage], self.stage_rank[neighbour])

    def operations(self, rank: int) -> Iterator[Operation]:
        """What a rank does, in order: its actions, each with the receive before it and the send after it."""
        for action in self.programs[rank]:
            if message := self.received(action):
                yield Receive(message)
            yield action
            if message := self.sent(action):
                yield Send(message)

    def peak_live(self) -> list[int]:
        """For each rank, the most stage activations it holds at once; one is a micro-batch's through one stage.

        An activation lives from its forward until the gradient of the weights is done. The order alone decides: no
        time enters. With v stages on a rank, each activation covers 1/v of the rank's layers.
        """
        peaks = []
        for program in self.programs:
            live = peak = 0
            for action in program:
                live += {F: 1, B: -1, I: 0, W: -1}[action.kind]
                peak = max(peak, live)
            peaks.append(peak)
        return peaks


def reordered(schedule: Schedule) -> list[Message]:
    """Messages that a rank takes in another order than its peer sends them: without a tag it would take a wrong one."""
    sent: dict[tuple[int, int], list[Message]] = {}
    received: dict[tuple[int, int], list[Message]] = {}
    for operation in (o for rank in range(schedule.ranks) for o in schedule.operations(rank)):
        if not isinstance(operation, Action):
            message = operation.message
            side = sent if isinstance(operation, Send) else received
            side.setdefault((message.source, message.target), []).append(message)
    return [got for link in sent for put, got in zip(sent[link], received[link], strict=True) if put != got]


def parts(action: Action) -> list[Action]:
    """A full backward as its two parts, any other action as itself."""
    return [action._replace(kind=I), action._replace(kind=W)] if action.kind is B else [action]


def check_groups(ranks: int, micro_batches: int) -> None:
    """Interleaved 1F1B deals micro-batches out in groups of p, or in one group that is smaller.

    Raises:
        ValueError: when a group would stay incomplete.
    """
    if micro_batches > ranks and micro_batches % ranks:
        fewer = micro_batches // ranks * ranks
        raise ValueError(
            f"interleaved 1F1B cannot deal {micro_batches} micro-batches out to {ranks} ranks in groups of {ranks}: "
            f"choose a multiple of {ranks}, such as {fewer} or {fewer + ranks}"
        )


def check_complete(schedule: Schedule) -> None:
    """Every stage must take every micro-batch forward once and backward once, on the rank that holds it.

    Raises:
        ValueError: naming the first action that is foreign, doubled or missing.
    """
    seen: set[Action] = set()
    for rank, program in enumerate(schedule.programs):
        for action in program:
            where = f"rank {rank} of schedule {schedule.name!r}"
            if not 0 <= action.micro_batch < schedule.micro_batches:
                last = schedule.micro_batches - 1
                raise ValueError(f"{where} lists the {action}, but micro-batches run from 0 to {last}: drop it")
            if not 0 <= action.stage < schedule.stages or schedule.stage_rank[action.stage] != rank:
                own = ", ".join(map(str, schedule.stages_of(rank))) or "none"
                raise ValueError(f"{where} lists the {action}, but holds the stages {own}: move it to its own rank")
            if doubled := seen.intersection(parts(action)):
                raise ValueError(f"{where} lists the {min(doubled, key=str)} a second time: list it once")
            seen.update(parts(action))
    for stage, rank in enumerate(schedule.stage_rank):
        for micro_batch in range(schedule.micro_batches):
            for kind in (F, I, W):
                if (missing := Action(kind, stage, micro_batch)) not in seen:
                    raise ValueError(f"schedule {schedule.name!r} lacks the {missing}: add it to rank {rank}")


def replay(schedule: Schedule, *, blocking_sends: bool = False) -> list[tuple[int, Action]]:
    """All actions as (rank, action) in an order in which they can run, each rank in its own order.

    Receives wait for their message. Sends go out at once, unless `blocking_sends`: then a send, too, waits until its
    receiver has come to the matching receive. Many a schedule that is right with the first hangs with the second.

    Raises:
        ValueError: when the ranks wait for each other for ever, or an action stands before what it needs.
    """
    programs = [list(schedule.operations(rank)) for rank in range(schedule.ranks)]
    position = [0] * schedule.ranks
    done: set[Action] = set()
    arrived: set[Message] = set()
    order: list[tuple[int, Action]] = []

    def step(rank: int) -> bool:
        """Run the rank's next operation if it can run."""
        operation = programs[rank][position[rank]]
        if isinstance(operation, Receive):
            ready = operation.message in arrived
        elif isinstance(operation, Send):
            target = operation.message.target
            meets = programs[target][position[target] : position[target] + 1] == [Receive(operation.message)]
            if ready := meets or not blocking_sends:
                arrived.add(operation.message)
        else:
            own = [a for a in schedule.needs(operation) if schedule.stage_rank[a.stage] == rank]
            if ready := done.issuperset(own):
                done.update(parts(operation))
                order.append((rank, operation))
        position[rank] += ready
        return ready

    moving = True
    while moving:
        moving = False
        for rank in range(schedule.ranks):
            while position[rank] < len(programs[rank]) and step(rank):
                moving = True
    stuck = {r: programs[r][position[r]] for r in range(schedule.ranks) if position[r] < len(programs[r])}
    if stuck:
        raise ValueError(_why_stuck(schedule, stuck, done))
    return order


def _why_stuck(schedule: Schedule, stuck: dict[int, Operation], done: set[Action]) -> str:
    for rank, operation in stuck.items():
        if isinstance(operation, Action):  # its input is made on its own rank, further down
            late = next(a for a in schedule.needs(operation) if a not in done)
            return f"rank {rank} of schedule {schedule.name!r} lists the {operation} before the {late}: swap them"
    waits = []
    for rank, operation in stuck.items():
        assert isinstance(operation, Send | Receive)
        content, stage, micro_batch, source, target = operation.message
        sends = isinstance(operation, Send)
        verb, peer = ("send", f"to rank {target}") if sends else ("receive", f"from rank {source}")
        waits.append(f"rank {rank} to {verb} the {content} of micro-batch {micro_batch} at stage {stage} {peer}")
    return f"schedule {schedule.name!r} hangs, for each waits for another: " + ", ".join(waits)

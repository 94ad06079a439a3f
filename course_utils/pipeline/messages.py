"""What the ranks of a pipeline hand to each other: sent without waiting, received ahead of time."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.pipeline.schedule import Message, Receive, Schedule, Send, reordered

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)
HEADER = 10  # numbers that tell a shape: its dtype, its dimensions, up to eight sizes


class Messenger:
    """Sends and receives what a schedule asks of this rank.

    What a stage returns has one shape in all micro-batches and steps. The sender tells it once, before its first
    message; from then on a receive can be started before its message is needed.

    Every message has a tag of its own, for in some schedules a rank takes messages in another order than they were
    sent.

    Raises:
        ValueError: where such a schedule meets nccl, which knows no tags.
    """

    def __init__(self, schedule: Schedule, group: dist.ProcessGroup | None = None) -> None:
        if dist.get_backend(group) == "nccl" and (swapped := reordered(schedule)):
            raise ValueError(
                f"schedule {schedule.name!r} takes {len(swapped)} messages in another order than they are sent, and "
                "nccl cannot tell them apart: use gloo, or a schedule such as 1F1B"
            )
        self.schedule, self.group = schedule, group
        self._proofs = proofs(schedule, dist.get_rank(group))
        self._shapes: dict[int, tuple[torch.dtype, torch.Size]] = {}  # of what each stage returns, once known
        self._told: set[int] = set()  # stages of this rank whose shape the next rank knows
        self._coming: dict[Message, tuple[dist.Work, Tensor]] = {}
        self._going: dict[Message, tuple[dist.Work, Tensor]] = {}

    def expect(self, message: Message) -> None:
        """Start to receive, so that the message travels while this rank computes. Without its shape, do nothing."""
        made_by = message.stage if message.content == "activation" else message.stage - 1
        if message not in self._coming and made_by in self._shapes:
            self._coming[message] = self._start_receive(message, *self._shapes[made_by])

    def receive(self, message: Message) -> Tensor:
        """Wait for a message."""
        if message.content == "activation" and message.stage not in self._shapes:
            header = torch.empty(HEADER, dtype=torch.int64, device=_device(self.group))
            dist.recv(header, group=self.group, group_src=message.source, tag=self._header_tag(message.stage))
            dtype, dimensions, *sizes = header.tolist()
            self._shapes[message.stage] = DTYPES[dtype], torch.Size(sizes[:dimensions])
        self.expect(message)
        work, tensor = self._coming.pop(message)
        work.wait()
        for arrived in self._proofs[message]:
            self._finish(arrived)
        return tensor

    def send(self, message: Message, tensor: Tensor) -> None:
        """Let a message go, without waiting: ranks that send to each other and wait would stand still for ever."""
        if message.content == "activation":
            self._tell_shape(message, tensor)
        self._start_send(message, tensor.contiguous(), self._tag(message))

    def finish(self) -> None:
        """Wait until all that was sent has arrived."""
        for message in list(self._going):
            self._finish(message)

    def _start_receive(self, message: Message, dtype: torch.dtype, shape: torch.Size) -> tuple[dist.Work, Tensor]:
        tensor = torch.empty(shape, dtype=dtype, device=_device(self.group))
        work = dist.irecv(tensor, group=self.group, group_src=message.source, tag=self._tag(message))
        assert work is not None
        return work, tensor

    def _start_send(self, message: Message, tensor: Tensor, tag: int) -> None:
        work = dist.isend(tensor, group=self.group, group_dst=message.target, tag=tag)
        assert work is not None
        self._going[message] = work, tensor  # which must live until it has gone

    def _finish(self, message: Message) -> None:
        self._going.pop(message)[0].wait()

    def _tell_shape(self, message: Message, tensor: Tensor) -> None:
        """Tell the receiver what a stage's outputs look like, before the first; see to it that they stay alike."""
        stage, form = message.stage, (tensor.dtype, tensor.shape)
        agreed = self._shapes.setdefault(stage, form)
        if agreed != form:
            raise ValueError(
                f"stage {stage} returned {_words(form)} for micro-batch {message.micro_batch}, and {_words(agreed)} "
                f"before: stage {stage + 1} has room for the latter. Make all batches alike (drop_last=True, texts "
                "padded to one length), or make a new Pipeline"
            )
        if stage not in self._told:
            self._told.add(stage)
            told = [DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
            header = torch.tensor(told + [0] * (HEADER - len(told)), device=tensor.device)
            self._start_send(message._replace(content="shape"), header, self._header_tag(stage))

    def _tag(self, message: Message) -> int:
        number = message.stage * self.schedule.micro_batches + message.micro_batch
        return 2 * number + (message.content == "gradient")

    def _header_tag(self, stage: int) -> int:
        return 2 * self.schedule.stages * self.schedule.micro_batches + stage


def proofs(schedule: Schedule, rank: int) -> dict[Message, list[Message]]:
    """For each message that a rank receives, those of its own that have then arrived for certain.

    The peer had taken them before it sent this one, so their buffers can be released without waiting.
    """
    proven: dict[Message, list[Message]] = {}
    for peer in range(schedule.ranks):
        taken: list[Message] = []
        for operation in schedule.operations(peer):
            if isinstance(operation, Receive) and operation.message.source == rank:
                taken.append(operation.message)
            elif isinstance(operation, Send) and operation.message.target == rank:
                proven[operation.message], taken = taken, []
    return proven


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Where messages of a group live: nccl moves those of the current GPU, gloo those of the CPU."""
    gpu = dist.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def _words(form: tuple[torch.dtype, torch.Size]) -> str:
    return f"{list(form[1])} of {str(form[0]).removeprefix('torch.')}"

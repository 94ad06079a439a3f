"""The point-to-point messages of a pipeline: sends that never wait, and receives that are posted ahead of time."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.pipeline.schedule import Message, Receive, Schedule, Send, reordered

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DIMENSIONS = 8  # of a message, at most

Form = tuple[torch.dtype, torch.Size]


class PointToPoint:
    """This rank's side of all messages of a schedule.

    What a stage returns has one dtype and one shape in all micro-batches and steps. The first micro-batch tells it to
    the next stage. From then on a receive can be posted before its message is needed.

    Raises:
        ValueError: where a schedule takes messages in another order than they are sent, and the backend is nccl, which
            knows no tags.
    """

    def __init__(self, schedule: Schedule, group: dist.ProcessGroup | None = None) -> None:
        nccl = dist.get_backend(group) == "nccl"
        if nccl and (swapped := reordered(schedule)):
            raise ValueError(
                f"schedule {schedule.name!r} takes {len(swapped)} messages in another order than they are sent, and "
                "nccl cannot tell them apart: use gloo, or a schedule such as 1F1B"
            )
        self.schedule, self.group = schedule, group
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        self._forms: dict[int, Form] = {}  # of what each stage returns, once known
        self._arrived = arrivals(schedule, dist.get_rank(group))
        self._receiving: dict[Message, tuple[dist.Work, Tensor]] = {}
        self._sending: dict[Message, tuple[dist.Work, Tensor]] = {}  # a tensor must live until it has arrived

    def irecv(self, message: Message) -> None:
        """Post a receive, so that the message travels while this rank computes; nothing before its form is known."""
        made_by = message.stage if message.content == "activation" else message.stage - 1
        if message in self._receiving or made_by not in self._forms:
            return
        dtype, shape = self._forms[made_by]
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        work = dist.irecv(tensor, group=self.group, group_src=message.source, tag=self._tag(message))
        assert work is not None
        self._receiving[message] = work, tensor

    def recv(self, message: Message) -> Tensor:
        """Wait for a message."""
        if message.content == "activation" and message.stage not in self._forms:
            self._forms[message.stage] = self._recv_form(message)
        self.irecv(message)
        work, tensor = self._receiving.pop(message)
        work.wait()
        for arrived in self._arrived[message]:
            self._sending.pop(arrived)[0].wait()
        return tensor

    def isend(self, message: Message, tensor: Tensor) -> None:
        """Send, and do not wait: two ranks that send to each other and wait would stand still for ever."""
        if message.content == "activation":
            self._agree_on_form(message, tensor)
        tensor = tensor.contiguous()
        work = dist.isend(tensor, group=self.group, group_dst=message.target, tag=self._tag(message))
        assert work is not None
        self._sending[message] = work, tensor

    def wait(self) -> None:
        """Until all that was sent has arrived."""
        while self._sending:
            self._sending.popitem()[1][0].wait()

    def _agree_on_form(self, message: Message, tensor: Tensor) -> None:
        """The first micro-batch tells the next stage what will come; all others must be like it."""
        form = tensor.dtype, tensor.shape
        if message.stage not in self._forms:
            self._forms[message.stage] = form
            sizes = [*tensor.shape, *[-1] * (DIMENSIONS - tensor.dim())]
            told = torch.tensor([DTYPES.index(tensor.dtype), *sizes], device=tensor.device)
            self.isend(message._replace(content="form", micro_batch=0), told)
        elif form != (agreed := self._forms[message.stage]):
            raise ValueError(
                f"stage {message.stage} returned {_words(form)} for micro-batch {message.micro_batch}, and "
                f"{_words(agreed)} before: stage {message.stage + 1} has room for the latter. Make all batches alike "
                "(drop_last=True, texts padded to one length), or make a new Pipeline"
            )

    def _recv_form(self, message: Message) -> Form:
        told = torch.empty(1 + DIMENSIONS, dtype=torch.int64, device=self.device)
        tag = self._tag(message._replace(content="form", micro_batch=0))
        dist.recv(told, group=self.group, group_src=message.source, tag=tag)
        dtype, *sizes = told.tolist()
        return DTYPES[dtype], torch.Size(size for size in sizes if size >= 0)

    def _tag(self, message: Message) -> int:
        """A number of its own for each message: in some schedules a rank takes them in another order than they come."""
        number = message.stage * self.schedule.micro_batches + message.micro_batch
        return 3 * number + ("activation", "gradient", "form").index(message.content)


def arrivals(schedule: Schedule, rank: int) -> dict[Message, list[Message]]:
    """For each message that a rank receives, those of its own that have then arrived.

    The peer had received them before it sent this one, so their tensors can be released without waiting.
    """
    proven: dict[Message, list[Message]] = {}
    for peer in range(schedule.ranks):
        received: list[Message] = []
        for operation in schedule.operations(peer):
            if isinstance(operation, Receive) and operation.message.source == rank:
                received.append(operation.message)
            elif isinstance(operation, Send) and operation.message.target == rank:
                proven[operation.message], received = received, []
    return proven


def _words(form: Form) -> str:
    return f"{list(form[1])} of {str(form[0]).removeprefix('torch.')}"

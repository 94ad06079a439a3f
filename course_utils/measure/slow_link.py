"""Let one machine play several: messages between "nodes" take as long as they would on a slow link."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils.measure.communication import Link
from course_utils.measure.operators import Call, is_communication, is_dtensor, read_call


class SlowLink(TorchDispatchMode):
    """Within the ``with`` block, this rank sleeps before each call whose group lies on more than one node.

    The call is charged with alpha times the messages in a row, plus its bytes (``Call.wire``) over the bandwidth: all
    of them, as the slowest link sets the pace of a ring. The rank sleeps for these seconds and leaves the processor to
    others. It is an emulation and says so: nothing overlaps, two messages never compete for a link, and the
    computation takes whatever this machine takes.

    Args:
        per_node: ranks that share a node; ranks 0 to ``per_node - 1`` are on the first.
        link: between nodes. Inside, messages take what they take.

    Attributes:
        seconds: slept so far.
    """

    def __init__(self, per_node: int, link: Link) -> None:
        super().__init__()
        self.per_node, self.link = per_node, link
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_dtensor, types)):
            return NotImplemented  # it comes by again, as operators on shards
        if is_communication(func):
            call, group = read_call(func, args, kwargs or {})
            if self._crosses(call, group):
                seconds = self.link.latency * _in_a_row(call, group.size()) + call.wire / self.link.bandwidth
                self.seconds += seconds
                time.sleep(seconds)
        return func(*args, **(kwargs or {}))

    def _crosses(self, call: Call, group: dist.ProcessGroup) -> bool:
        if call.operation in ("send", "recv"):  # the group is the pipeline's; the message has two ends
            ends = [int(end) for end in call.group.split("→") if end != "any"]
        else:
            ends = dist.get_process_group_ranks(group)
        return len({end // self.per_node for end in ends}) > 1


def _in_a_row(call: Call, ranks: int) -> int:
    """Messages one after the other: 2 (N-1) in a ring's all-reduce, N-1 in its halves. A receiver waits anyway."""
    match call.operation:
        case "all_reduce":
            return 2 * (ranks - 1)
        case "recv":
            return 0
        case "send":
            return 1
        case _:
            return ranks - 1

"""Real processes on one machine or many: how they are started, what they hold and send, and how they work together."""

from course_utils.distributed.collectives import (
    Move,
    broadcast,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    root_all_reduce,
    tree_all_reduce,
)
from course_utils.distributed.environment import Process, distributed_from_environment
from course_utils.distributed.failures import RankFailed, RankTimeout
from course_utils.distributed.launch import launch
from course_utils.distributed.ledger import Held, Ledger, Sent, add_up, held

__all__ = [
    "Held",
    "Ledger",
    "Move",
    "Process",
    "RankFailed",
    "RankTimeout",
    "Sent",
    "add_up",
    "broadcast",
    "distributed_from_environment",
    "held",
    "launch",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_reduce_scatter",
    "root_all_reduce",
    "tree_all_reduce",
]

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
from course_utils.distributed.data_parallel import DataParallel
from course_utils.distributed.delay import Delay
from course_utils.distributed.environment import Process, distributed_from_environment
from course_utils.distributed.failures import RankFailed, RankTimeout
from course_utils.distributed.hybrid import HybridParallel, average_gradients
from course_utils.distributed.launch import launch
from course_utils.distributed.ledger import Held, Ledger, Sent, add_up, held
from course_utils.distributed.mesh import Mesh
from course_utils.distributed.pipeline import Pipeline, on_one_clock
from course_utils.distributed.replicas import global_mean, root_step
from course_utils.distributed.slow_link import SlowLink
from course_utils.distributed.stages import cut
from course_utils.distributed.tensor_parallel import (
    SequenceParallelEncoder,
    cut_state_dict,
    cuts_of,
    full_state_dict,
    tensor_parallel,
)
from course_utils.distributed.vocabulary import vocabulary_parallel_cross_entropy
from course_utils.distributed.zero import zero
from course_utils.distributed.zero_checkpoint import load_shards, save_shards

__all__ = [
    "DataParallel",
    "Delay",
    "Held",
    "HybridParallel",
    "Ledger",
    "Mesh",
    "Move",
    "Pipeline",
    "Process",
    "RankFailed",
    "RankTimeout",
    "Sent",
    "SequenceParallelEncoder",
    "SlowLink",
    "add_up",
    "average_gradients",
    "broadcast",
    "cut",
    "cut_state_dict",
    "cuts_of",
    "distributed_from_environment",
    "full_state_dict",
    "global_mean",
    "held",
    "launch",
    "load_shards",
    "on_one_clock",
    "ring_all_gather",
    "ring_all_reduce",
    "ring_reduce_scatter",
    "root_all_reduce",
    "root_step",
    "save_shards",
    "tensor_parallel",
    "tree_all_reduce",
    "vocabulary_parallel_cross_entropy",
    "zero",
]

"""ZeRO: data parallelism in which no rank keeps what it does not need at the moment."""

from course_utils.zero.checkpoint import load_shards, save_shards
from course_utils.zero.zero import zero

__all__ = ["load_shards", "save_shards", "zero"]

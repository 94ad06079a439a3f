"""The deepspeed package itself, imported when it is first used, and silently."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
import torch.distributed as dist


def library() -> ModuleType:
    """The deepspeed package, ready for the CPU where the process group is gloo's, and silent but for errors."""
    if not torch.cuda.is_available() or (dist.is_initialized() and dist.get_backend() == "gloo"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it says at length that it found no GPU
    try:
        with without_stderr():
            import deepspeed

            # On the CPU it would compile an all-reduce over shared memory first, for minutes; gloo does it at once.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    except ImportError:
        raise ImportError("deepspeed is not installed: pip install deepspeed, then start again") from None
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # DeepSpeed 0.19 calls two collectives by the names they had before torch 2.14.
    warnings.filterwarnings("ignore", r".*(all_gather_into|reduce_scatter)_tensor.* is deprecated", FutureWarning)
    return deepspeed


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """While it is imported, DeepSpeed tries which of its extensions could be linked, and the linker complains aloud."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)

"""DeepSpeed's engine around a model, inside any process group: of ``launch``, of torchrun, of the deepspeed launcher.

::

    with deepspeed_engine(model, deepspeed_config(stage=2, micro_batch=8, ranks=2)) as engine:
        loss = loss_of(engine(x), y)
        engine.backward(loss)  # not loss.backward(): the engine scales, reduces and cuts gradients
        engine.step()  # also after micro-batches that end no step: the engine counts

DeepSpeed is imported when it is first used, not with this module: it takes seconds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.deepspeed.config import check_config
from course_utils.deepspeed.cpu_adam import COMMAND, load_cpu_adam
from course_utils.deepspeed.library import library
from course_utils.launch.environment import distributed_from_environment
from course_utils.launch.launch import preload as preload_modules
from course_utils.measure import Held, held

PRELOAD = ("deepspeed", "deepspeed.runtime.zero.muon.original_muon")  # the second pulls in torch._inductor: seconds
GRADIENTS = (  # where the optimizers of stages 1 to 3 keep their share, at the end of a step or between micro-batches
    "averaged_gradients",
    "all_grad_tensors",
    "accumulated_grads_in_cpu",
    "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition",
)


class HeldByEngine(NamedTuple):
    """Bytes of a rank's model states: on the device, and in host memory, where offload puts them."""

    device: Held
    host: Held


def preload() -> None:
    """Let :func:`launch` fork its next ranks from a server that has imported DeepSpeed, seconds for each rank saved."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    preload_modules(*PRELOAD)


@contextlib.contextmanager
def deepspeed_engine(model: nn.Module, config: Mapping[str, Any]) -> Iterator[Any]:
    """A DeepSpeed engine that trains ``model`` as the configuration says; its hooks are taken out at the end.

    Joins the process group that the environment describes, if there is none yet.

    Args:
        model: the same on every rank (rank 0's weights count); the engine changes it in place.

    Raises:
        ValueError: the configuration is wrong (:func:`check_config`).
        RuntimeError: it asks for an extension that is not compiled, or for FP16 where there is none.
    """
    with distributed_from_environment():
        check_config(config, dist.get_world_size())
        deepspeed = library()
        _check_extensions(config)
        engine, *_ = deepspeed.initialize(model=model, config=dict(config), dist_init_required=False)
        try:
            yield engine
        finally:
            engine.destroy()


def held_by_engine(engine: Any) -> HeldByEngine:
    """Bytes that this rank holds for its model states now; gradients between ``backward`` and ``step``.

    Shards count by their elements. (DeepSpeed's gradient shards are views, which may keep more memory alive than that.)
    """
    optimizer, zero = engine.optimizer, engine._config.zero_config
    if zero.stage == 0:  # torch's own optimizer, or, with 16-bit weights, a wrapper around it
        return HeldByEngine(held(engine.module, getattr(optimizer, "optimizer", optimizer)), NOTHING)
    parameters = list(engine.module.parameters())
    masters = optimizer.fp32_partitioned_groups_flat if zero.stage == 3 else optimizer.single_partition_of_fp32_groups
    state = [v for entry in optimizer.optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    whole = [p for p in parameters if p.numel()]  # stage 3: what it was told to keep whole, and its shard beside it
    weights = _bytes([*whole, *(p.ds_tensor for p in parameters if hasattr(p, "ds_tensor"))])
    moments = _bytes(v for v in state if v.numel() > 1)
    gradients, waiting = _gradients(optimizer, parameters, masters)
    on_host = [zero.offload_optimizer, zero.offload_param]
    optimizer_away, weights_away = (block is not None and block.device != "none" for block in on_host)
    split = Held(weights, gradients, _bytes(masters), moments)
    device = Held(
        0 if weights_away else split.parameters,
        0 if optimizer_away else split.gradients,
        0 if optimizer_away else split.master_weights,
        0 if optimizer_away else split.optimizer_state,
    )
    host = Held(*(whole - here for whole, here in zip(split, device, strict=True)))
    return HeldByEngine(device._replace(gradients=device.gradients + waiting), host)


def _gradients(optimizer: Any, parameters: Iterable[Tensor], masters: Iterable[Tensor]) -> tuple[int, int]:
    """Bytes of gradients that stand for the optimizer, and of those that still lie at the parameters."""
    owned = [master.grad for master in masters if master.grad is not None]
    for name in GRADIENTS:
        owned.extend(_tensors(getattr(optimizer, name, None)))
    return _bytes(owned), _bytes(p.grad for p in parameters if p.grad is not None)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if torch.is_tensor(tree):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Each stretch of memory once, however many tensors show it."""
    return sum({(t.untyped_storage().data_ptr(), t.storage_offset(), t.numel()): t.nbytes for t in tensors}.values())


def _check_extensions(config: Mapping[str, Any]) -> None:
    """Refuse what would start a compiler for minutes, or fail in the middle of it, or what this processor cannot do."""
    from deepspeed.accelerator import get_accelerator

    if config.get("fp16", {}).get("enabled") and not get_accelerator().is_fp16_supported():
        raise RuntimeError(
            "fp16 is enabled, and DeepSpeed finds no FP16 arithmetic on this machine (a CPU needs AVX512-FP16 or "
            'AMX-FP16): write "bf16": {"enabled": true} in its place'
        )
    zero = config.get("zero_optimization", {})
    name = str(config.get("optimizer", {}).get("type", "")).lower()
    own = name in ("adam", "adamw") and not config["optimizer"].get("params", {}).get("torch_adam", False)
    away = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    if own and away:
        load_cpu_adam()
    if own and not away and not torch.cuda.is_available():
        raise RuntimeError(
            'without a GPU DeepSpeed would now compile its FusedAdam, for minutes: write "torch_adam": true into the '
            f"optimizer's params, or offload the optimizer and run `{COMMAND}` once"
        )
    if "nvme" in (block.get("device") for block in zero.values() if isinstance(block, Mapping)):
        from deepspeed.ops.op_builder import AsyncIOBuilder

        with contextlib.redirect_stdout(None):
            possible = AsyncIOBuilder().is_compatible(verbose=False)
        if not possible:
            raise RuntimeError(
                "offload to NVMe reads and writes through libaio, which is not installed here: "
                'apt install libaio-dev, or write "device": "cpu"'
            )


NOTHING = Held(0, 0, 0, 0)

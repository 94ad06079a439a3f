"""DeepSpeed's configuration, the dictionary that its JSON file holds: written out in full, and refused when wrong.

DeepSpeed reads what it knows and takes its own default for all the rest, without a word: a misspelt
``zero_optimisation`` trains without ZeRO, and a configuration that says nothing of clipping clips at 1.0. So
:func:`deepspeed_config` writes down every key that decides the result, and :func:`check_config` looks at dictionaries
from elsewhere.

Source: the reference of the keys, https://www.deepspeed.ai/docs/config-json/ (DeepSpeed 0.19).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from course_utils.precision import Precision

Place = Literal["cpu", "nvme"]

# The keys at the top of a configuration; those within a block such as zero_optimization DeepSpeed checks itself.
KEYS = (
    "activation_checkpointing", "aio", "autotuning", "bf16", "checkpoint", "comms_logger", "communication_data_type",
    "compile", "compression_training", "csv_monitor", "data_efficiency", "data_types", "dataloader_drop_last",
    "disable_allgather", "dump_state", "elasticity", "expert_parallel", "flops_profiler", "fp16",
    "gradient_accumulation_steps", "gradient_allreduce_op", "gradient_clipping", "gradient_predivide_factor",
    "hybrid_engine", "memory_breakdown", "optimizer", "pipeline", "prescale_gradients", "scheduler", "sparse_gradients",
    "steps_per_print", "tensor_parallel", "tensorboard", "timers", "torch_autocast", "train_batch_size",
    "train_micro_batch_size_per_gpu", "wandb", "wall_clock_breakdown", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "zero_optimization",
)  # fmt: skip


def deepspeed_config(
    *,
    stage: int,
    micro_batch: int,
    ranks: int,
    accumulate: int = 1,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    precision: Precision = "fp32",
    clip: float | None = None,
    offload_optimizer: Place | None = None,
    offload_parameters: Place | None = None,
    nvme_path: str | Path | None = None,
    cpu_adam: bool = False,
    log_communication: bool = False,
    bucket: int = 5_000_000,
    keep_whole_below: int = 0,
    stay_gathered: int = 1_000_000_000,
    load_universal: bool = False,
) -> dict[str, Any]:
    """A configuration for AdamW that leaves nothing to DeepSpeed's defaults that changes losses, bytes or messages.

    Args:
        stage: 0 (plain data parallelism) to 3.
        micro_batch: samples that a rank sees in one forward.
        ranks: how many processes will run it; with the two others it gives the size of the whole batch.
        accumulate: micro-batches of an optimizer step.
        clip: largest norm of the whole gradient; None writes 0.0, which means none. (A missing key means 1.0.)
        offload_optimizer: where optimizer state and update go, if not to the device; needs stage 1 to 3.
        offload_parameters: where shards of the 16-bit (here maybe FP32) weights wait; needs stage 3.
        nvme_path: the folder on a fast disk, for ``"nvme"``.
        cpu_adam: take DeepSpeed's vectorised Adam for the CPU, which a compiler must have built
            (:mod:`course_utils.deepspeed.cpu_adam`); else torch's AdamW, wherever the state lies.
        log_communication: count every collective, for ``deepspeed.comm.log_summary()``.
        bucket: elements that one reduction or all-gather carries at most, in stages 1 to 3.
        keep_whole_below: stage 3 leaves parameters of fewer elements whole on every rank. DeepSpeed's own default is
            100 000, for which small models are hardly cut at all.
        stay_gathered: elements that stage 3 may leave gathered after forward, until backward has used them; 0 gathers
            everything twice, as ZeRO's paper counts. The default is DeepSpeed's own.
        load_universal: the engine will load a checkpoint that
            :func:`~course_utils.deepspeed.checkpoint.to_universal` has converted.

    Raises:
        ValueError: for a combination that DeepSpeed would refuse later, or take and ignore.
    """
    zero: dict[str, Any] = {"stage": stage}
    if stage in (1, 2, 3):
        zero |= {"reduce_bucket_size": bucket, "overlap_comm": False, "contiguous_gradients": True}
    if stage in (1, 2):
        zero |= {"allgather_bucket_size": bucket}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": keep_whole_below}
        zero |= {"stage3_max_live_parameters": stay_gathered, "stage3_max_reuse_distance": stay_gathered}
    for key, place in (("offload_optimizer", offload_optimizer), ("offload_param", offload_parameters)):
        if place is not None:
            zero[key] = {"device": place} | ({"nvme_path": str(nvme_path)} if nvme_path is not None else {})
    config: dict[str, Any] = {
        "train_batch_size": micro_batch * accumulate * ranks,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": 0.0 if clip is None else clip,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": lr, "weight_decay": weight_decay, "torch_adam": not cpu_adam},
        },
        "zero_optimization": zero,
    }
    if not cpu_adam and offload_optimizer:
        config["zero_force_ds_cpu_optimizer"] = False  # or DeepSpeed takes no Adam but its own under offload
    if precision != "fp32":
        config[precision] = {"enabled": True}
    if log_communication:
        config["comms_logger"] = {"enabled": True, "verbose": False, "prof_all": True}
    if load_universal:
        config["checkpoint"] = {"load_universal": True}
    check_config(config, ranks)
    return config


def check_config(config: Mapping[str, Any], ranks: int, pipeline_stages: int = 1) -> None:
    """Look at a configuration before anything is started.

    Args:
        ranks: processes that will share the batch.
        pipeline_stages: into how many stages the model is cut; 1 for none.

    Raises:
        ValueError: with the value, the reason, and what to write instead.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a configuration is a dictionary, and this is {config!r:.60}")
    for key in config:
        if key not in KEYS and (close := difflib.get_close_matches(str(key), KEYS, 1, 0.8)):
            raise ValueError(f"DeepSpeed knows no key {key!r} and would pass over it in silence: write {close[0]!r}")
    _check_batch(config, ranks)
    if _on(config, "fp16") and _on(config, "bf16"):
        raise ValueError("fp16 and bf16 are both enabled: weights have one type, keep one of the two (bf16 if you can)")
    clip = config.get("gradient_clipping", 1.0)
    if isinstance(clip, bool) or not isinstance(clip, int | float) or clip < 0:
        raise ValueError(f"gradient_clipping is {clip!r}: write the largest norm, such as 1.0, or 0.0 for none")
    stage = _stage(config)
    if pipeline_stages > 1 and stage >= 2:
        raise ValueError(
            f"stage {stage} with {pipeline_stages} pipeline stages: a pipeline adds up the gradients of its "
            "micro-batches in place, and stage 2 gives most of them away after each; take stage 0 or 1"
        )
    _check_offload(config.get("zero_optimization", {}), stage)


def _check_batch(config: Mapping[str, Any], ranks: int) -> None:
    """train_batch_size = micro-batch times accumulation times ranks; DeepSpeed works out what is missing."""
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks is {ranks!r}: expected how many processes will run, a whole number of at least 1")
    whole, micro = config.get("train_batch_size"), config.get("train_micro_batch_size_per_gpu")
    steps = config.get("gradient_accumulation_steps")
    for key, value in (
        ("train_batch_size", whole),
        ("train_micro_batch_size_per_gpu", micro),
        ("gradient_accumulation_steps", steps),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{key} is {value!r}: expected a whole number of at least 1")
    if whole is None:
        if micro is None:
            raise ValueError(
                "neither train_batch_size nor train_micro_batch_size_per_gpu is there: write at least one of them"
            )
        return
    known = {"ranks": ranks}
    known |= {"train_micro_batch_size_per_gpu": micro} if micro is not None else {}
    known |= {"gradient_accumulation_steps": steps} if steps is not None else {}
    product = 1
    for value in known.values():
        product *= value
    complete = len(known) == 3
    if whole % product or (complete and whole != product):
        factors = " x ".join(f"{value} ({name})" for name, value in known.items())
        raise ValueError(
            f"train_batch_size is {whole}, and {factors} = {product}: "
            f"write {product}" + ("" if complete else " or a multiple of it") + ", or change a factor"
        )


def _stage(config: Mapping[str, Any]) -> int:
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise ValueError(f'zero_optimization is {zero!r:.60}: expected a block such as {{"stage": 2}}')
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or not isinstance(stage, int) or not 0 <= stage <= 3:
        raise ValueError(f"stage is {stage!r}: expected 0 (no ZeRO), 1 (cut optimizer states), 2 (gradients too), "
                         "3 (weights too)")  # fmt: skip
    return stage


def _check_offload(zero: Mapping[str, Any], stage: int) -> None:
    for key, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        block = zero.get(key)
        if block is None:
            continue
        device = block.get("device", "none") if isinstance(block, Mapping) else None
        if device not in ("none", "cpu", "nvme"):
            raise ValueError(f'{key} is {block!r:.60}: expected {{"device": "cpu"}}, "nvme" or "none"')
        if device == "none":
            continue
        if stage < lowest:
            reason = (
                "only stage 3 cuts the weights into shards that can wait elsewhere; use stage 3, or offload_optimizer"
                if key == "offload_param"
                else "without ZeRO there is no shard to move; use stage 1, 2 or 3"
            )
            raise ValueError(f"{key} with stage {stage}: {reason}")
        if device == "nvme" and stage < 3:
            raise ValueError(f'{key} to "nvme" with stage {stage}: states go to a disk in stage 3 alone; or use "cpu"')
        if device == "nvme" and not block.get("nvme_path"):
            raise ValueError(f'{key} goes to "nvme", but no nvme_path says where: name a folder on a fast disk')


def _on(config: Mapping[str, Any], key: str) -> bool:
    block = config.get(key, {})
    return bool(isinstance(block, Mapping) and block.get("enabled", False))

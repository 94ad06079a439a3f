"""09.2: find what is wrong with a configuration."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from course_utils.exercises.answer import Answer, NotOk
from course_utils.exercises.check import Check

Rng = np.random.Generator

check_find_fault = Check("deepspeed_and_fsdp.2", "find_fault", parameters=("config", "ranks"))


def _good(rng: Rng, stage: int | None = None) -> tuple[dict[str, Any], int]:
    ranks, micro, steps = (int(n) for n in rng.integers(2, 9, size=3))
    config: dict[str, Any] = {
        "train_batch_size": ranks * micro * steps,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": int(rng.integers(1, 4)) if stage is None else stage},
    }
    return config, ranks


def _expect(answer: Answer, config: dict[str, Any], ranks: int, want: str, hint: str = "") -> None:
    got = answer(copy.deepcopy(config), ranks)
    if got == want and isinstance(got, str):
        return
    told = ", ".join(f"{key}: {value}" for key, value in config.items() if key != "gradient_clipping")
    if want == "" and isinstance(got, str) and got:
        hint = hint or "Nothing is wrong with this one."
    raise NotOk(("given", f"{{{told}}}, ranks={ranks}"), ("expected", repr(want)), ("got", f"{got!r:.60}"), hint=hint)


def _both(
    answer: Answer, rng: Rng, stage: int, fault: dict[str, Any], cure: dict[str, Any], want: str, hint: str
) -> None:
    """The fault must be named, and the same configuration without it pass."""
    config, ranks = _good(rng, stage)
    _expect(answer, config | fault, ranks, want, hint)
    _expect(answer, config | cure, ranks, "", hint)


@check_find_fault.point(
    "a batch that does not multiply out, and one that does",
    hint="train_batch_size must be micro-batch x accumulation x ranks.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        config, ranks = _good(rng)
        _expect(answer, config, ranks, "")
        wrong = config | {"train_batch_size": config["train_batch_size"] + int(rng.integers(1, 4))}
        _expect(answer, wrong, ranks, "train_batch_size")
        forgot = config | {"train_batch_size": config["train_batch_size"] // ranks}
        _expect(answer, forgot, ranks, "train_batch_size", "Each of the ranks sees a micro-batch of its own.")
        twice = config | {"train_batch_size": 2 * config["train_batch_size"]}
        hint = "Twice the product is not the product: with all three keys there is nothing left to work out."
        _expect(answer, twice, ranks, "train_batch_size", hint)
        _expect(answer, config, ranks + 1, "train_batch_size", "The same file on another number of ranks is wrong.")


@check_find_fault.point(
    "keys that are missing are worked out by DeepSpeed",
    hint="Two of the three sizes are enough; then the third must come out as a whole number.",
)
def _(answer: Answer, rng: Rng) -> None:
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        config, ranks = _good(rng)
        del config[key]
        _expect(answer, config, ranks, "", f"{key} is missing, which is no fault: it follows from the others.")
        if key != "train_batch_size":
            wrong = config | {"train_batch_size": config["train_batch_size"] + 1}
            _expect(answer, wrong, ranks, "train_batch_size", "What is missing would not be a whole number.")


@check_find_fault.point(
    "weights wait on the host in stage 3 alone",
    hint="offload_param needs shards of weights, and those exist in stage 3 alone.",
)
def _(answer: Answer, rng: Rng) -> None:
    for stage in (1, 2):
        block = {"zero_optimization": {"stage": stage, "offload_param": {"device": "cpu"}}}
        none = {"zero_optimization": {"stage": stage, "offload_param": {"device": "none"}}}
        _both(answer, rng, stage, block, none, "offload_param", "")
    config, ranks = _good(rng, 3)
    config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    _expect(answer, config, ranks, "", "Stage 3 has shards of weights to offload.")


@check_find_fault.point(
    "offload of the optimizer needs ZeRO",
    hint="Stage 0 shards nothing, so there is no shard to move: and a missing stage is stage 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    away = {"offload_optimizer": {"device": "cpu"}}
    cure = {"zero_optimization": {"stage": 1, **away}}
    _both(answer, rng, 0, {"zero_optimization": {"stage": 0, **away}}, cure, "offload_optimizer", "")
    _both(answer, rng, 0, {"zero_optimization": away}, cure, "offload_optimizer", "A missing stage is stage 0.")
    config, ranks = _good(rng)
    del config["zero_optimization"]
    _expect(answer, config, ranks, "", "Without the block there is no ZeRO, which is no fault.")


@check_find_fault.point(
    "one 16-bit type at a time",
    hint='Both blocks may stand there, if one says {"enabled": False}.',
)
def _(answer: Answer, rng: Rng) -> None:
    on, off = {"enabled": True}, {"enabled": False}
    hint = "A block counts when it is enabled, not when it is there."
    _both(answer, rng, 2, {"fp16": on, "bf16": on}, {"fp16": off, "bf16": on}, "fp16", hint)
    for cure in ({"fp16": on, "bf16": off}, {"bf16": on}, {"fp16": off, "bf16": off}):
        config, ranks = _good(rng)
        _expect(answer, config | cure, ranks, "", hint)
        wrong = config | cure | {"train_batch_size": config["train_batch_size"] + 1}
        _expect(answer, wrong, ranks, "train_batch_size")

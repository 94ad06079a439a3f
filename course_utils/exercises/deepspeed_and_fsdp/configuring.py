"""09.1: a configuration for a given memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from course_utils.exercises.answer import Answer, NotOk, brief
from course_utils.exercises.check import Check
from course_utils.zero.cost import states_per_rank

Rng = np.random.Generator
B, GB = 10**9, 10**9

check_configure = Check(
    "deepspeed_and_fsdp.1", "configure", parameters=("parameters", "ranks", "memory", "batch", "micro_batch")
)


def _needs(parameters: int, ranks: int, stage: int) -> float:
    return states_per_rank(parameters, ranks, stage)[0].total


def _lowest(parameters: int, ranks: int, memory: float) -> int:
    return next(stage for stage in range(4) if _needs(parameters, ranks, stage) <= memory)


def _config(answer: Answer, *args: Any) -> dict[str, Any]:
    config = answer(*args)
    if not isinstance(config, dict):
        raise NotOk(
            ("given", answer.call(*args)), ("expected", "a dictionary"), ("got", f"{type(config).__name__}"), ends=True
        )
    return config


def _stage(answer: Answer, *args: Any) -> int:
    zero = _config(answer, *args).get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if isinstance(stage, bool) or not isinstance(stage, int):
        raise NotOk(
            ("given", answer.call(*args)),
            ("expected", '"zero_optimization": {"stage": a whole number}'),
            ("got", brief(zero)),
            hint="The stage stands in a block of its own; a misspelt block is passed over in silence.",
        )
    return stage


def _expect_stage(answer: Answer, parameters: int, ranks: int, memory: float) -> None:
    args = (parameters, ranks, memory, 8 * ranks, 2)
    want, got = _lowest(parameters, ranks, memory), _stage(answer, *args)
    if got == want:
        return
    total = _needs(parameters, ranks, got) / GB if got in range(4) else float("nan")
    hint = "Stages: 4 P + 12 P, then 4 P + 12 P / N, 2 P + 14 P / N, 16 P / N bytes."
    if got in range(4) and total * GB > memory:
        hint = f"Stage {got} needs {total:.1f} GB here, more than there is. " + hint
    elif got in range(4):
        hint = f"Stage {got} fits, but so does stage {want}, which asks for less of the network."
    raise NotOk(("given", answer.call(*args)), ("expected", f"stage {want}"), ("got", f"stage {got}"), hint=hint)


@check_configure.point(
    "the lowest stage whose model states fit",
    hint="Stages: 4 P + 12 P, then 4 P + 12 P / N, 2 P + 14 P / N, 16 P / N bytes.",
)
def _(answer: Answer, rng: Rng) -> None:
    for ranks in (2, 4, 8, int(rng.integers(9, 100))):
        parameters = int(rng.integers(B, 10 * B))
        for stage in rng.permutation(4):
            _expect_stage(answer, parameters, ranks, 1.01 * _needs(parameters, ranks, int(stage)))


@check_configure.point(
    "just fitting is fitting, and a single rank has nobody to share with",
    hint="Compare with <=. On one rank every stage needs 16 bytes a parameter, so the lowest is stage 0.",
)
def _(answer: Answer, rng: Rng) -> None:
    parameters = 16 * int(rng.integers(10**8, 10**9))
    for stage in (0, 1, 2, 3):
        _expect_stage(answer, parameters, 4, _needs(parameters, 4, stage))
    _expect_stage(answer, parameters, 1, 16.0 * parameters)


@check_configure.point(
    "the three batch sizes multiply out",
    hint="batch = micro_batch x gradient_accumulation_steps x ranks: write all three keys as whole numbers.",
)
def _(answer: Answer, rng: Rng) -> None:
    for _ in range(4):
        ranks, micro, steps = (int(n) for n in rng.integers(2, 9, size=3))
        args = (B, ranks, 100.0 * GB, ranks * micro * steps, micro)
        config = _config(answer, *args)
        want = {
            "train_batch_size": ranks * micro * steps,
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": steps,
        }
        for key, value in want.items():
            if type(got := config.get(key)) is not int or got != value:
                hint = "" if key in config else f"The key {key} is missing."
                if got == ranks * steps:
                    hint = "The batch is shared out over the ranks too."
                elif isinstance(got, float):
                    hint = "DeepSpeed wants whole numbers here: divide with //."
                raise NotOk(
                    ("given", answer.call(*args)), ("expected", f"{key}: {value}"), ("got", f"{key}: {got!r}"),
                    hint=hint,
                )  # fmt: skip


@check_configure.point(
    "BF16, and nothing else in 16 bits",
    hint='"bf16": {"enabled": True}. Without it DeepSpeed trains in FP32, and the 16 bytes are other ones.',
)
def _(answer: Answer, rng: Rng) -> None:
    args = (int(rng.integers(B, 2 * B)), 4, 100.0 * GB, 32, 2)
    config = _config(answer, *args)
    on = {name for name in ("fp16", "bf16") if isinstance(b := config.get(name), dict) and b.get("enabled") is True}
    if on != {"bf16"}:
        raise NotOk(
            ("given", answer.call(*args)), ("expected", "bf16 enabled"), ("got", f"enabled: {sorted(on) or 'neither'}")
        )


@check_configure.point(
    "gradients are not clipped, and the configuration says so",
    hint="A missing gradient_clipping means 1.0. Write 0.0.",
)
def _(answer: Answer, rng: Rng) -> None:
    args = (int(rng.integers(B, 2 * B)), 4, 100.0 * GB, 32, 2)
    config = _config(answer, *args)
    clip = config.get("gradient_clipping", "missing")
    if isinstance(clip, bool) or clip != 0:
        raise NotOk(("given", answer.call(*args)), ("expected", "gradient_clipping: 0.0"), ("got", brief(clip)))

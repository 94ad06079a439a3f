"""The wrong answers that the chapter's checks must reject, each with a piece of what its learner reads."""

import numpy as np
from mutants import edit, exercise_tests, wrong

from course_utils.exercises import deepspeed_and_fsdp


def replicated(shards, length, ranks):
    """Everybody gets everything, as plain data parallelism does."""
    flat = shards.reshape(-1)[:length]
    width = -(-length // ranks)
    return np.broadcast_to(np.resize(flat, width), (ranks, width)).copy()


def whole_on_every_rank(shards, length, ranks):
    return np.tile(shards.reshape(-1)[:length], (ranks, 1))


def dealt_out(shards, length, ranks):
    width = -(-length // ranks)
    return np.pad(shards.reshape(-1)[:length], (0, ranks * width - length)).reshape(width, ranks).T.copy()


def array_split(shards, length, ranks):
    return np.array_split(shards.reshape(-1)[:length], ranks)


def always_stage_3(parameters, ranks, memory, batch, micro_batch):
    return {"zero_optimization": {"stage": 3}, "train_batch_size": batch, "bf16": {"enabled": True},
            "train_micro_batch_size_per_gpu": micro_batch, "gradient_clipping": 0.0,
            "gradient_accumulation_steps": batch // micro_batch // ranks}  # fmt: skip


def says_none(config, ranks):
    return None


def never_wrong(config, ranks):
    return ""


WRONG = {
    "configure": [
        wrong("unsharded optimizer", edit("12 / (ranks if stage >= 1 else 1)", "12"), says="expected  stage"),
        wrong("gradients from stage 1 on", edit("ranks if stage >= 2", "ranks if stage >= 1"), says="more than there"),
        wrong("always stage 3", always_stage_3, says="Stage 3 fits, but so does stage", at_most=3),
        wrong("FP32 moments alone", edit("optimizer = 12", "optimizer = 8"), says="more than there is"),
        wrong(
            "less than, not at most",
            edit("* parameters <= memory", "* parameters < memory"),
            says="but so does stage 0",
        ),
        wrong("ranks forgotten", edit("batch // (micro_batch * ranks)", "batch // micro_batch"), says="over the ranks"),
        wrong("a float", edit("batch // (micro_batch * ranks)", "batch / (micro_batch * ranks)"), says="whole numbers"),
        wrong("clipping left out", edit('        "gradient_clipping": 0.0,\n', ""), says="means 1.0. Write 0.0"),
        wrong("fp16", edit('"bf16": {"enabled": True}', '"fp16": {"enabled": True}'), says="enabled: ['fp16']"),
        wrong("misspelt", edit('"zero_optimization"', '"zero_optimisation"'), says="passed over in silence"),
    ],
    "find_fault": [
        wrong("ranks forgotten", edit("product, whole = ranks,", "product, whole = 1,"), says="expected  ''"),
        wrong("never equal", edit("(complete and whole != product)", "False"), says="Twice the product"),
        wrong("all keys wanted", edit("config.get(size, 1)", "config[size]"), says="KeyError"),
        wrong("only equal is right", edit("(complete and whole != product)", "whole != product"), says="is missing"),
        wrong("a block is there", edit('.get("enabled", False)', ""), says="when it is enabled", at_most=4),
        wrong("offload_param in stage 2", edit('("offload_param", 3)', '("offload_param", 2)'), says="stage 3 alone"),
        wrong(
            "offload in stage 0", edit('("offload_optimizer", 1)', '("offload_optimizer", 0)'), says="shards nothing"
        ),
        wrong("any device", edit('.get("device", "none") != "none"', ""), says="Nothing is wrong with this one"),
        wrong("a missing stage is 1", edit('zero.get("stage", 0)', 'zero.get("stage", 1)'), says="stage is stage 0"),
        wrong("None for nothing", says_none, says="return", at_most=0),
        wrong("never wrong", never_wrong, says="must be micro-batch", at_most=0),
    ],
    "reshard": [
        wrong("replicated", replicated, says="a replica, not a shard", at_most=0),
        wrong("whole on every rank", whole_on_every_rank, says="expected  shape", at_most=0),
        wrong("dealt out", dealt_out, says="dealt out like cards", at_most=0),
        wrong("unequal shards", array_split, says="a NumPy array of shape", at_most=0),
        wrong("old padding kept", edit("shards.reshape(-1)[:length]", "shards.reshape(-1)"), says="cannot reshape"),
        wrong("rounded down", edit("-(-length // ranks)", "length // ranks"), says="raised"),
        wrong("padded in front", edit("(0, ranks * width - length)", "(ranks * width - length, 0)"), says="element"),
        wrong("columns", edit("flat.reshape(ranks, width)", "flat.reshape(width, ranks).T"), says="like cards"),
    ],
}
test_exercise = exercise_tests(deepspeed_and_fsdp, WRONG)

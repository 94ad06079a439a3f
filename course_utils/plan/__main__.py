"""What a training run holds, sends and takes: ``python -m course_utils.plan --model llama-3.1-70b --gpus 64``.

Without a layout the fastest that fits is taken, and the next ones are listed. ``--config`` takes the config.json of a
model of transformers in place of a name.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from dataclasses import replace

from course_utils.hybrid.clusters import CLUSTERS
from course_utils.hybrid.report import layouts_table, report
from course_utils.plan.decoder import Decoder
from course_utils.plan.memory import AUTOCAST_ADAM, FURTHER_STATES, MASTER_ADAM_FP32_GRADIENTS, MODEL_STATES
from course_utils.plan.plan import Lora, Plan
from course_utils.plan.transformer import DECODERS, RECOMPUTE

MODELS = {model.name.lower().replace(" ", "-"): model for model in DECODERS}
STATES = {
    re.sub(r"[^a-z0-9]+", "-", one.name.lower()): one
    for one in (*MODEL_STATES, *FURTHER_STATES)
    if one != AUTOCAST_ADAM
}
AXES = ("data", "pipeline", "tensor", "context", "expert")


def number(text: str, thousand: int = 1000) -> int:
    """``15T`` as 15,000,000,000,000; with ``thousand=1024`` ``4M`` as 4 x 1024 x 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbgt]?)", text.strip().lower())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give a number above 0, such as 512, 4M or 15T")
    power = {"": 0, "k": 1, "m": 2, "b": 3, "g": 3, "t": 4}[found[2]]
    return round(float(found[1]) * thousand**power)


def batch(text: str) -> int:
    """Tokens of a step: ``4M`` is 4 x 1024 x 1024, as batches are powers of two."""
    return number(text, 1024)


def parser() -> argparse.ArgumentParser:
    """The options; each has a default but the number of GPUs and the model."""
    found = argparse.ArgumentParser(prog="python -m course_utils.plan", description=__doc__.splitlines()[0])
    which = found.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", choices=MODELS, metavar="NAME", help=f"one of {', '.join(MODELS)}")
    which.add_argument("--config", metavar="FILE", help="the config.json of a model of transformers, or its folder")
    found.add_argument("--gpus", type=number, required=True, help="how many in all")
    found.add_argument("--gpu", choices=CLUSTERS, default="h100", help="which (default h100)")
    found.add_argument("--batch-tokens", type=batch, default=4 << 20, help="tokens of a step; 4M is 4 x 1024 x 1024")
    found.add_argument("--length", type=number, help="tokens of a sequence (default: the model's)")
    found.add_argument("--tokens", type=number, default=10**12, help="tokens of the run (default 1T)")
    found.add_argument(
        "--states", choices=STATES, default=_name(MASTER_ADAM_FP32_GRADIENTS), help="what is kept of a parameter"
    )
    found.add_argument("--lora", type=number, metavar="RANK", help="train updates of this rank alone")
    found.add_argument("--base-bits", type=float, default=16, help="bits of a frozen weight beside LoRA (default 16)")
    found.add_argument("--kernel", choices=("fused", "written_out"), default="fused", help="attention (default fused)")
    found.add_argument("--fp8", action="store_true", help="multiply the layers' matrices with 8-bit factors")
    found.add_argument("--busy", type=float, help="share of the peak that products reach")
    found.add_argument("--layouts", type=number, default=5, help="how many of the best layouts to list (default 5)")
    layout = found.add_argument_group("a layout of your own, in place of the best")
    for axis in AXES:
        layout.add_argument(f"--{axis}", type=number, help="ranks on this axis")
    layout.add_argument("--chunks", type=number, default=1, help="stages of a pipeline rank, interleaved")
    layout.add_argument("--micro-batch", type=number, default=1, help="sequences at a time")
    layout.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=1, help="stage (default 1)")
    layout.add_argument("--recompute", choices=RECOMPUTE, default="none", help="what backward works out again")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; 0, or 2 with a sentence where there is none."""
    options = parser().parse_args(arguments)
    try:
        print(answer(options))
    except (ValueError, OSError) as error:
        print(f"python -m course_utils.plan: {error}", file=sys.stderr)
        return 2
    return 0


def answer(options: argparse.Namespace) -> str:
    """What the options ask for, as text."""
    model = Decoder.from_config(options.config) if options.config else MODELS[options.model]
    length = options.length or model.length
    if not (sequences := options.batch_tokens // length):
        raise ValueError(f"a batch of {options.batch_tokens:,} tokens has no whole sequence of {length:,}: give more")
    cluster = replace(CLUSTERS[options.gpu], fp8=options.fp8)
    if options.busy is not None:
        if not 0 < options.busy <= 1:
            raise ValueError(f"busy {options.busy:g} is no share: choose a number above 0 and at most 1, such as 0.5")
        cluster = replace(cluster, busy=options.busy)
    if not 0 < options.base_bits <= 32:
        raise ValueError(f"base-bits {options.base_bits:g} is not between 0 and 32: 16 is BF16, 4.127 is NF4")
    lora = Lora(options.lora, base=options.base_bits / 8) if options.lora else None
    plan = Plan(
        model=model, batch=sequences, length=length, states=STATES[options.states], kernel=options.kernel,
        dropout=False, lora=lora,
    )  # fmt: skip
    if not any(getattr(options, axis) for axis in AXES):
        return layouts_table(plan, cluster, options.gpus, best=options.layouts, tokens=options.tokens)
    sizes = {axis: getattr(options, axis) or 1 for axis in AXES}
    if (ranks := math.prod(sizes.values())) != options.gpus:
        product = " x ".join(map(str, sizes.values()))
        raise ValueError(
            f"{product} = {ranks} ranks, but there are {options.gpus} GPUs: choose sizes whose product is that"
        )
    chosen = {"micro_batch": options.micro_batch, "zero": options.zero, "recompute": options.recompute}
    plan = plan.on(sizes, chunks=options.chunks, sequence_parallel=sizes["tensor"] > 1, **chosen)
    return report(plan, cluster, tokens=options.tokens)


def _name(states: object) -> str:
    return next(name for name, one in STATES.items() if one == states)


if __name__ == "__main__":
    sys.exit(main())
